r"""A prepared folder of recordings as what an acoustic model trains on.

    FOLDER/transcriptions.csv    name, ph_seq, ph_dur [, ph_num, note_seq, note_dur, note_slur] [, voice]
    FOLDER/wavs/NAME.wav         any rate; resampled to the model's
    FOLDER/ds/NAME.ds            may be missing; the f0 of what is sung is taken from it

Sequences are separated by spaces, durations are seconds; a table without notes is speech, one without voices has one.
f0 of speech is DIO's. Singing is voiced for longer and leaps, where DIO loses frames: its f0 is that of its .ds file
where there is one, and else Harvest's, which also says what is voiced where a .ds file has no zeros, as most have none.
Log-mels and f0 are computed once and kept as FOLDER/features/KEY.safetensors, KEY a hash of the sound and of how they
are computed, so that a changed recording or setting is never met with old features.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from degauss.audio import framing
from degauss.audio.acoustic import AcousticConfig, Range, Statistics
from degauss.audio.frontend import Batch, midi_of
from degauss.audio.lint import check
from degauss.audio.pitch import f0 as estimate_f0
from degauss.audio.pitch import f0_harvest
from degauss.audio.score import Segment, read_ds
from degauss.audio.spectra import MelConfig, log_mel
from degauss.audio.transcription import Entry, read_transcriptions
from degauss.audio.waves import mono, read, resample
from degauss.core.checkpoint import read_tensors, write_tensors
from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.core.train import Shuffle

TABLE, WAVES, SCORES, FEATURES = "transcriptions.csv", "wavs", "ds", "features"

# f0 is looked for between these, in Hz; part of the hash of the features.
_LOW, _HIGH = 50.0, 1000.0

# The share of frames at either end of a voice's pitch that counts as mistakes of the estimator.
_OUTLIERS = 0.02

Report = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Item:
    """One recording as a model sees it; p phones, n frames.

    ``phones`` names ``[p]``; ``durations`` int64 ``[p]``, frames; ``sung``: the note of each phone; ``melody`` ``[n]``;
    ``f0`` ``[n]``; ``mel`` ``[mels, n]``: see `degauss.audio.frontend.Batch`.
    """

    name: str
    voice: str
    phones: tuple[str, ...]
    durations: Tensor
    sung: framing.Sung
    melody: Tensor
    f0: Tensor
    mel: Tensor


@dataclass(frozen=True, eq=False)
class Corpus:
    """Recordings, how their mels were made, and a SHA-256 of all of it."""

    items: tuple[Item, ...]
    mel: MelConfig
    digest: str

    @property
    def phones(self) -> tuple[str, ...]:
        """The phones that occur, in alphabetical order."""
        return tuple(sorted({phone for item in self.items for phone in item.phones}))

    @property
    def voices(self) -> tuple[str, ...]:
        return tuple(sorted({item.voice for item in self.items}))

    @property
    def sings(self) -> bool:
        """Whether there are notes."""
        return any(bool((item.melody > 0).any()) for item in self.items)

    def statistics(self, voices: Sequence[str]) -> Statistics:
        """The range of each mel bin, and the mean pitch of each voice (60 where it has none)."""
        mels = torch.cat([item.mel for item in self.items], dim=1)
        pitches = [self._pitches(voice) for voice in voices]
        means = [float(pitch.mean()) if len(pitch) else 60.0 for pitch in pitches]
        return Statistics(mels.amin(1), mels.amax(1), torch.tensor(means))

    def ranges(self) -> dict[str, Range]:
        """The lowest and highest note that each voice sings, or where it speaks, its pitch."""
        found: dict[str, Range] = {}
        for voice in self.voices:
            notes = torch.cat([item.melody[item.melody > 0] for item in self.items if item.voice == voice])
            if not len(notes):
                pitch = self._pitches(voice).sort().values
                cut = int(_OUTLIERS * len(pitch))
                notes = pitch[cut : len(pitch) - cut]
            if len(notes):
                found[voice] = Range(round(float(notes.min()), 2), round(float(notes.max()), 2))
        return found

    def _pitches(self, voice: str) -> Tensor:
        """The pitch of a voice where it sounds, as MIDI numbers ``[frames]``."""
        return torch.cat([midi_of(item.f0[item.f0 > 0]) for item in self.items if item.voice == voice])

    def split(self, held_out: int, seed: int = 0) -> tuple[Corpus, Corpus]:
        """All but so many recordings, and these, chosen by the seed. `InputError` unless some are left to train on."""
        if not 0 <= held_out < len(self.items):
            raise InputError(f"held_out must be less than the {len(self.items)} recordings, but is {held_out}.")
        order = Shuffle(len(self.items), seed)(range(len(self.items))).tolist()
        parts = (sorted(order[held_out:]), sorted(order[:held_out]))
        train, held = (Corpus(tuple(self.items[k] for k in part), self.mel, self.digest) for part in parts)
        return train, held


# --- reading ------------------------------------------------------------------------------------------------


def read_entries(folder: Path) -> tuple[Entry, ...]:
    """The lines of FOLDER/transcriptions.csv. `InputError` names the line and what in it does not agree."""
    path = folder / TABLE
    if not path.is_file():
        raise InputError(f"{path}: does not exist; expected a folder that 'prepare' wrote.")
    entries = read_transcriptions(path)
    if not entries:
        raise InputError(f"{path}: has no lines; expected one for each recording.")
    for entry in entries:
        check([entry.segment], f"{path}, {entry.name!r}")
    return entries


def read_corpus(folder: str | Path, mel: MelConfig | None = None, report: Report | None = None) -> Corpus:
    """Read a prepared folder, computing what features are not there yet.

    ``report`` is told (recordings read, recordings in all). Raises `InputError` naming the file or line for a recording
    that is missing or unusable, and for phones that do not last as long as their recording.
    """
    folder, mel = Path(folder), MelConfig() if mel is None else mel
    entries = read_entries(folder)
    digest = hashlib.sha256(json.dumps(asdict(mel)).encode())
    items: list[Item] = []
    for done, entry in enumerate(entries, 1):
        item, key = _item(folder, entry, mel)
        items.append(item)
        digest.update(f"{key} {entry}".encode())
        if report is not None:
            report(done, len(entries))
    return Corpus(tuple(items), mel, digest.hexdigest())


def _item(folder: Path, entry: Entry, mel: MelConfig) -> tuple[Item, str]:
    path = folder / WAVES / f"{entry.name}.wav"
    if not path.is_file():
        raise InputError(f"{path}: no such file, but {folder / TABLE} has a line for it.")
    source = _source(folder, entry)
    key = _key(path, mel, source)
    features = _features(path, folder / FEATURES / f"{key}.safetensors", mel, source)
    segment, frames = entry.segment, features["mel"].shape[1]
    seconds, expected = math.fsum(segment.durations), (frames - 1) / framing.frames_per_second(mel)
    if abs(seconds - expected) > framing.TOLERANCE:
        raise InputError(f"{path}: lasts {expected:.3f} s, but its phones {seconds:.3f} s; expected the same.")
    durations = torch.tensor(segment.durations, dtype=torch.float64)
    item = Item(
        entry.name,
        entry.voice,
        segment.phones,
        framing.phone_frames(durations, mel, frames),
        framing.sung(segment),
        framing.melody(segment, mel, frames),
        features["f0"],
        features["mel"],
    )
    return item, key


@dataclass(frozen=True)
class _Sung:
    """Where the f0 of a recording of singing is from: ``written`` in a .ds file, unless that is empty."""

    written: Segment | None

    @property
    def name(self) -> list[object]:
        """What goes into the hash."""
        return ["harvest"] if self.written is None else ["harvest", self.written.f0_step, *self.written.f0]

    def f0(self, x: Tensor, mel: MelConfig) -> Tensor:
        written = self.written
        if written is not None and min(written.f0) == 0:
            return framing.f0_on_frames(written, mel, 1 + len(x) // mel.hop)
        found = f0_harvest(x, mel.rate, mel.hop, low=_LOW, high=_HIGH)
        return found if written is None else framing.f0_on_frames(written, mel, len(found)) * (found > 0)


def _source(folder: Path, entry: Entry) -> _Sung | None:
    """None for speech. `InputError` for a .ds file that is not of one segment, as long as the recording's phones."""
    if not entry.segment.notes:
        return None
    path = folder / SCORES / f"{entry.name}.ds"
    if not path.is_file():
        return _Sung(None)
    score = read_ds(path)
    if len(score) != 1:
        raise InputError(f"{path}: holds {len(score)} segments; expected one, which is the whole recording.")
    if not score[0].f0:
        return _Sung(None)
    seconds, expected = len(score[0].f0) * score[0].f0_step, entry.segment.duration
    if seconds < expected - framing.TOLERANCE:
        raise InputError(
            f"{path}: has f0 for {seconds:.3f} s, but the phones last {expected:.3f} s; expected the same."
        )
    return _Sung(score[0])


def _key(path: Path, mel: MelConfig, source: _Sung | None) -> str:
    """The hash of a sound file and of how its features are computed."""
    how = json.dumps([asdict(mel), _LOW, _HIGH, *([] if source is None else source.name)], sort_keys=True)
    return hashlib.sha256(how.encode() + b"\0" + path.read_bytes()).hexdigest()[:32]


def _features(path: Path, kept: Path, mel: MelConfig, source: _Sung | None) -> dict[str, Tensor]:
    """``mel [mels, n]`` and ``f0 [n]`` of a recording, from ``kept`` if it is there."""
    if kept.is_file():
        return read_tensors(kept)
    x = mono(resample(read(path), mel.rate))
    f0 = estimate_f0(x, mel.rate, mel.hop, low=_LOW, high=_HIGH) if source is None else source.f0(x, mel)
    found = {"mel": log_mel(x, mel), "f0": f0}
    with atomic_path(kept) as part:
        write_tensors(part, found)
    return found


# --- batches ------------------------------------------------------------------------------------------------


def collate(items: Sequence[Item], config: AcousticConfig) -> Batch:
    """Recordings as a padded batch, with the numbers that the configuration gives to phones and voices."""
    numbers = {name: number for number, name in enumerate(config.phones, 1)}
    phones = [torch.tensor([numbers[phone] for phone in item.phones]) for item in items]
    frames = max(item.mel.shape[1] for item in items)
    return Batch(
        phones=_padded(phones),
        durations=_padded([item.durations for item in items]),
        voices=torch.tensor([config.voices.index(item.voice) for item in items]),
        notes=_padded([item.sung.notes for item in items]),
        note_seconds=_padded([item.sung.seconds for item in items]).float(),
        slurs=_padded([item.sung.slurs for item in items]),
        melody=_padded([item.melody for item in items]),
        f0=_padded([item.f0 for item in items]),
        mel=torch.stack([torch.nn.functional.pad(item.mel, (0, frames - item.mel.shape[1])) for item in items]),
    )


def _padded(rows: list[Tensor]) -> Tensor:
    return pad_sequence(rows, batch_first=True)


@dataclass(frozen=True, eq=False)
class Batches:
    """Sample numbers -> a batch of recordings, each once an epoch, in an order keyed by the seed."""

    corpus: Corpus
    config: AcousticConfig
    seed: int = 0

    def __call__(self, samples: Sequence[int]) -> Batch:
        chosen: np.ndarray[tuple[int], np.dtype[np.int64]] = Shuffle(len(self.corpus.items), self.seed)(samples)
        return collate([self.corpus.items[k] for k in chosen.tolist()], self.config)
