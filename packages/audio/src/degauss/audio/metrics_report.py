"""Many recordings judged by many measures: what was found, what could not be computed, and why.

    report = judge(pairs(Path("enhanced"), Path("clean")), Judge())
    report.write(Path("report"))                # report.csv, report.json; `metrics_page.write_page` makes the page

Intrusive measures compare a file with its reference of the same name. DNSMOS, the word error rate and the similarity to
a given voice need none. A measure without a value (its package is not installed, the utterance is too short, ...) is an
empty cell, and the reason stands in `Row.missing`; a number is never made up.

Spectra and pitch are taken at 16 kHz, or at the files' own rate where that is lower, with a frame every 16 ms.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from degauss.audio import metrics, speech_metrics
from degauss.audio.pitch import f0
from degauss.audio.recognition import Edits, Recogniser, edits
from degauss.audio.spectra import MelConfig, log_mel
from degauss.audio.waves import Wave, mono, read, resample
from degauss.core.errors import InputError
from degauss.core.files import atomic_path, write_json

SOUNDS = (".wav", ".flac", ".ogg", ".mp3")

# Two lengths that differ by less are cut to the shorter: vocoders and codecs round to whole frames.
_TRIM = 0.05

_LOWEST_RATE = 4000

Better = Literal["higher", "lower", "one"]
Align = Literal["frames", "dtw"]
Progress = Callable[[int, int], None]


class Measure(NamedTuple):
    """A column: its ``name``, ``unit`` ("" for none), where it is best, and what it says."""

    name: str
    unit: str
    better: Better
    meaning: str


MEASURES = (
    Measure("pesq_wb", "", "higher", "PESQ of wideband speech, P.862.2, 1.04 to 4.64"),
    Measure("pesq_nb", "", "higher", "PESQ of telephone speech, P.862.1, 1.02 to 4.55"),
    Measure("estoi", "", "higher", "extended short-time objective intelligibility, about 0 to 1"),
    Measure("si_sdr", "dB", "higher", "scale-invariant signal-to-distortion ratio"),
    Measure("sdr", "dB", "higher", "signal-to-distortion ratio, gain included"),
    Measure("lsd", "dB", "lower", "log-spectral distance"),
    Measure("mcd", "dB", "lower", "mel-cepstral distance, 13 coefficients without the level"),
    Measure("delta_variance", "", "one", "variance of spectral changes over the reference's; below 1: too smooth"),
    Measure("f0_rmse", "cents", "lower", "pitch difference where both are voiced"),
    Measure("vde", "", "lower", "share of frames voiced in one and unvoiced in the other"),
    Measure("gpe", "", "lower", "share of frames voiced in both whose pitch is more than 20 % off"),
    Measure("similarity", "", "higher", "cosine of Resemblyzer's embeddings of the speakers, 0 to 1"),
    Measure("dnsmos", "", "higher", "DNSMOS P.835, overall, 1 to 5"),
    Measure("dnsmos_sig", "", "higher", "DNSMOS P.835, the speech alone, 1 to 5"),
    Measure("dnsmos_bak", "", "higher", "DNSMOS P.835, the background alone, 1 to 5"),
    Measure("dnsmos_p808", "", "higher", "DNSMOS P.808, 1 to 5"),
    Measure("wer", "", "lower", "word errors of pocketsphinx for each word said"),
)
BY_NAME: Mapping[str, Measure] = {measure.name: measure for measure in MEASURES}

_DNSMOS = {"dnsmos": "overall", "dnsmos_sig": "signal", "dnsmos_bak": "background", "dnsmos_p808": "p808"}


class Item(NamedTuple):
    """A file to judge, what it is called, and what is known of it."""

    name: str
    estimate: Path
    reference: Path | None = None
    words: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Judge:
    """How files are judged.

    ``align``: spectra and pitch are compared frame by frame, or along a time warping where timing is free.
    ``recogniser`` hears the words of items that have some; ``voice`` is who should be speaking, else the reference is.
    ``only``: names of the measures to compute, all unless given.
    """

    align: Align = "frames"
    recogniser: Recogniser | None = None
    voice: Wave | None = None
    only: frozenset[str] | None = None

    def wants(self, name: str) -> bool:
        return self.only is None or name in self.only


@dataclass(frozen=True)
class Row:
    """One file: ``values`` by measure, reasons in ``missing`` for the others; ``edits`` and ``heard`` of its words."""

    name: str
    values: Mapping[str, float]
    missing: Mapping[str, str]
    notes: tuple[str, ...] = ()
    edits: Edits | None = None
    heard: str | None = None


class Summary(NamedTuple):
    """A measure over the ``files`` that have it: mean, standard deviation (None for one file) and extremes."""

    files: int
    mean: float
    sd: float | None
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        sd = stdev(values) if len(values) > 1 else None
        return cls(len(values), fmean(values), sd, min(values), max(values))


@dataclass(frozen=True)
class Report:
    """All files, in order; ``whole``: what is of the set and not of a file; ``facts``: how it was made."""

    title: str
    names: tuple[str, ...]
    rows: tuple[Row, ...]
    whole: Mapping[str, float]
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @cached_property
    def summary(self) -> dict[str, Summary]:
        """By measure, of those that any file has."""
        columns = {name: [row.values[name] for row in self.rows if name in row.values] for name in self.names}
        return {name: Summary.of(values) for name, values in columns.items() if values}

    @cached_property
    def reasons(self) -> dict[tuple[str, str], list[str]]:
        """(measure, reason) -> the files that have no value of it for that reason."""
        found: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            for name, reason in row.missing.items():
                found.setdefault((name, reason), []).append(row.name)
        return found

    def write(self, stem: Path) -> None:
        """Write ``stem``.csv, a row a file, and ``stem``.json, which has the rest; each whole or not at all."""
        with atomic_path(stem.with_suffix(".csv")) as part, part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["name", *self.names, *(["heard"] if self._heard else [])])
            for row in self.rows:
                heard = [row.heard or ""] if self._heard else []
                writer.writerow([row.name, *(_cell(row.values.get(name)) for name in self.names), *heard])
        with atomic_path(stem.with_suffix(".json")) as part:
            write_json(part, self.numbers())

    @property
    def _heard(self) -> bool:
        return any(row.heard is not None for row in self.rows)

    def numbers(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        return {
            "title": self.title,
            "facts": dict(self.facts),
            "whole": dict(self.whole),
            "summary": {name: summary._asdict() for name, summary in self.summary.items()},
            "measures": {name: BY_NAME[name]._asdict() for name in self.names},
            "files": [_plain(row) for row in self.rows],
        }


def _plain(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {"name": row.name, "values": dict(row.values), "missing": dict(row.missing)}
    if row.notes:
        found["notes"] = list(row.notes)
    if row.edits is not None:
        found |= {"heard": row.heard, "edits": row.edits._asdict()}
    return found


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


# --- which files --------------------------------------------------------------------------------------------


def pairs(estimates: Path, references: Path | None = None) -> list[Item]:
    """The files of ``estimates``, a file or a folder, each with its partner in ``references``.

    Two files are partners as they are. In folders, at any depth, partners have the same name there but for the suffix.
    Raises `InputError` for a folder beside a file, a folder without sound, and an estimate without a partner.
    """
    made = sounds(estimates)
    if references is None:
        return [Item(name, path) for name, path in made.items()]
    if not references.exists():
        raise InputError(f"{references}: no such file or folder; expected references.")
    if estimates.is_dir() != references.is_dir():
        raise InputError(f"{estimates} and {references} are a folder and a file; expected two of a kind.")
    real = sounds(references)
    if not estimates.is_dir():
        return [Item(name, path, references) for name, path in made.items()]
    if alone := [path for name, path in made.items() if name not in real]:
        more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
        raise InputError(f"{alone[0]} has no partner in {references}{more}; expected a file of the same name.")
    return [Item(name, path, real[name]) for name, path in made.items()]


def sounds(path: Path) -> dict[str, Path]:
    """The sound files of a folder at any depth, by their name there without suffix; a file is a set of one.

    Raises `InputError` if there is none, or two of one name.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; expected sound.")
    if not path.is_dir():
        return {path.stem: path}
    found: dict[str, Path] = {}
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in SOUNDS and file.is_file():
            name = file.relative_to(path).with_suffix("").as_posix()
            if name in found:
                raise InputError(f"{path}: has {found[name].name} and {file.name}; expected one sound of a name.")
            found[name] = file
    if not found:
        raise InputError(f"{path}: has no sound file; expected {', '.join(SOUNDS)}.")
    return found


def with_words(items: Sequence[Item], transcript: Path, split: Callable[[str], tuple[str, ...]]) -> list[Item]:
    """The items with what is said in them, from a CSV file with columns ``name`` and ``text``.

    A name is that of a file, with or without suffix; ``split`` makes words of a text. Raises `InputError`, with the
    line, for a file that is no such table, and for an item that it does not name.
    """
    said: dict[str, tuple[str, ...]] = {}
    for number, name, text in _lines(transcript):
        key = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SOUNDS else name
        try:
            said[key] = split(text)
        except InputError as error:
            raise InputError(f"{transcript}, line {number}: {error}") from None
        if not said[key]:
            raise InputError(f"{transcript}, line {number}: has no words for {name}; expected text.")
    if absent := [item.name for item in items if item.name not in said]:
        raise InputError(f"{transcript}: has no line for {absent[0]}; expected one for each of {len(items)} files.")
    return [item._replace(words=said[item.name]) for item in items]


def _lines(transcript: Path) -> Iterator[tuple[int, str, str]]:
    try:
        rows = list(csv.DictReader(transcript.read_text(encoding="utf-8-sig").splitlines(), strict=True))
    except FileNotFoundError:
        raise InputError(f"{transcript}: no such file; expected a CSV file with columns name and text.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{transcript}: cannot be read as CSV ({error}).") from None
    if not rows or not {"name", "text"} <= rows[0].keys():
        found = ", ".join(str(name) for name in rows[0]) if rows else "nothing"
        raise InputError(f"{transcript}: has {found}; expected columns name and text.")
    for number, row in enumerate(rows, start=2):
        yield number, str(row["name"] or "").strip(), str(row["text"] or "")


# --- judging ------------------------------------------------------------------------------------------------


def _silent(done: int, total: int) -> None:
    pass


def judge(items: Sequence[Item], how: Judge, *, title: str = "Metrics", report: Progress = _silent) -> Report:
    """Judge all items; ``report`` hears how many of how many are done.

    Raises `InputError` if nothing at all could be computed, with the first reason.
    """
    rows: list[Row] = []
    real: metrics.Moments | None = None
    made: metrics.Moments | None = None
    for done, item in enumerate(items):
        report(done, len(items))
        row, pair = _row(item, how)
        rows.append(row)
        if pair is not None:
            moments = [metrics.Moments.of(mel) for mel in pair.mels]
            real = moments[0] if real is None else real.joined(moments[0])
            made = moments[1] if made is None else made.joined(moments[1])
    report(len(items), len(items))
    if not any(row.values for row in rows):
        raise InputError(next(iter(rows[0].missing.values()), f"{items[0].estimate}: there is nothing to measure."))
    asked = {name for row in rows for name in (*row.values, *row.missing)}
    names = tuple(measure.name for measure in MEASURES if measure.name in asked)
    return Report(title, names, tuple(rows), _whole(rows, real, made))


def _whole(rows: Sequence[Row], real: metrics.Moments | None, made: metrics.Moments | None) -> dict[str, float]:
    whole: dict[str, float] = {}
    if real is not None and made is not None and min(real.frames, made.frames) > 1:
        whole["frechet_log_mel"] = metrics.frechet_log_mel(real, made)
    counted = [row.edits for row in rows if row.edits is not None]
    if counted:
        whole["wer"] = sum(one.total for one in counted) / sum(one.words for one in counted)
    return whole


def _row(item: Item, how: Judge) -> tuple[Row, _Pair | None]:
    """What is known of one item, and its pair of waves where it has a usable one."""
    try:
        wave = read(item.estimate)
        reference = None if item.reference is None else read(item.reference)
    except InputError as error:
        wanted = _wanted(how, item.reference is not None, item.words is not None)
        return Row(item.name, {}, dict.fromkeys(wanted, str(error))), None
    return _judged(item.name, wave, reference, item.words, how)


def judge_wave(
    wave: Wave, how: Judge, *, name: str = "wave", reference: Wave | None = None, words: tuple[str, ...] | None = None
) -> Row:
    """One wave in memory, judged as a file would be."""
    return _judged(name, wave, reference, words, how)[0]


def _judged(
    name: str, wave: Wave, reference: Wave | None, words: tuple[str, ...] | None, how: Judge
) -> tuple[Row, _Pair | None]:
    computing = _Cells(how)
    pair = None if reference is None else _intrusive(computing, reference, wave, how)
    if reference is None and how.voice is not None:
        voice = how.voice
        computing.compute("similarity", lambda: speech_metrics.speaker_similarity(voice, wave))
    _opinions(computing, wave)
    counted, heard = _words(computing, words, wave, how)
    notes = pair.notes if pair is not None else ()
    return Row(name, computing.values, computing.missing, notes, counted, heard), pair


def _wanted(how: Judge, referred: bool, worded: bool) -> list[str]:
    """The measures that a file should have, by whether it has a reference and words."""
    names = [*_INTRUSIVE] if referred else []
    names += ["similarity"] if referred or how.voice is not None else []
    names += [*_DNSMOS]
    names += ["wer"] if worded and how.recogniser is not None else []
    return [name for name in names if how.wants(name)]


class _Cells:
    """Values as they are computed, and reasons where they cannot be."""

    def __init__(self, how: Judge) -> None:
        self.how = how
        self.values: dict[str, float] = {}
        self.missing: dict[str, str] = {}

    def miss(self, names: Iterable[str], reason: str) -> None:
        self.missing |= {name: reason for name in names if self.how.wants(name)}

    def compute(self, name: str, value: Callable[[], float]) -> None:
        if not self.how.wants(name):
            return
        try:
            found = float(value())
        except (InputError, ImportError) as error:
            self.missing[name] = str(error)
            return
        if math.isfinite(found):
            self.values[name] = found
        else:
            self.missing[name] = "is infinite: but for its gain, the estimate is a copy of the reference."


class _Pair:
    """A reference and an estimate of one rate, and what several measures need of them."""

    def __init__(self, reference: Wave, estimate: Wave, align: Align) -> None:
        if reference.rate != estimate.rate:
            raise InputError(
                f"the reference is of {reference.rate} Hz, the estimate of {estimate.rate} Hz; expected one rate, so "
                "resample one of them knowingly."
            )
        if reference.rate < _LOWEST_RATE:
            raise InputError(f"a rate of {reference.rate} Hz is too low for speech; expected at least {_LOWEST_RATE}.")
        self.notes: tuple[str, ...] = ()
        lengths = reference.samples.shape[-1], estimate.samples.shape[-1]
        if lengths[0] != lengths[1] and abs(lengths[0] - lengths[1]) <= _TRIM * reference.rate:
            shorter = min(lengths)
            self.notes = (f"cut by {max(lengths) - shorter} samples to the shorter of the two",)
            reference, estimate = (w._replace(samples=w.samples[..., :shorter]) for w in (reference, estimate))
        self.reference, self.estimate, self.align = reference, estimate, align

    @property
    def signals(self) -> tuple[Tensor, Tensor]:
        """Both in one channel; `InputError` if their lengths differ."""
        first, second = mono(self.reference), mono(self.estimate)
        if len(first) != len(second):
            raise InputError(
                f"the reference lasts {self.reference.duration:.3f} s, the estimate {self.estimate.duration:.3f} s; "
                "expected the same."
            )
        return first, second

    @cached_property
    def _low(self) -> tuple[Wave, Wave]:
        """Both at the rate of the spectra."""
        rate = min(self.reference.rate, 16000)
        first, second = (resample(Wave(mono(w)[None], w.rate), rate) for w in (self.reference, self.estimate))
        return first, second

    @cached_property
    def mels(self) -> tuple[Tensor, Tensor]:
        first, second = self._low
        config = mel_config(first.rate)
        return log_mel(first.samples[0], config), log_mel(second.samples[0], config)

    @cached_property
    def matched(self) -> tuple[Tensor, Tensor]:
        """Frames of the one and of the other that belong together, ``[k]`` each."""
        first, second = self.mels
        if self.align == "dtw":
            return metrics.mel_cepstral_path(first, second)
        if first.shape[1] != second.shape[1]:
            raise InputError(
                f"the reference lasts {self.reference.duration:.3f} s, the estimate {self.estimate.duration:.3f} s; "
                "expected the same, or alignment by time warping."
            )
        frames = torch.arange(first.shape[1])
        return frames, frames

    @cached_property
    def pitches(self) -> tuple[Tensor, Tensor]:
        first, second = (f0(w.samples[0], w.rate, mel_config(w.rate).hop) for w in self._low)
        here, there = self.matched
        return first[here], second[there]


def mel_config(rate: int) -> MelConfig:
    """Windows of 64 ms every 16 ms, 80 bands up to half of ``rate``."""
    n_fft = 4 * round(rate * 0.016)
    return MelConfig(rate=rate, n_fft=n_fft, hop=n_fft // 4, f_max=rate / 2)


_INTRUSIVE: Mapping[str, Callable[[_Pair], float | Tensor]] = {
    "pesq_wb": lambda p: speech_metrics.pesq_wideband(p.reference, p.estimate),
    "pesq_nb": lambda p: speech_metrics.pesq_narrowband(p.reference, p.estimate),
    "estoi": lambda p: speech_metrics.estoi(p.reference, p.estimate),
    "si_sdr": lambda p: metrics.si_sdr(*p.signals),
    "sdr": lambda p: metrics.sdr(*p.signals),
    "lsd": lambda p: metrics.log_spectral_distance(*p.signals),
    "mcd": lambda p: metrics.mel_cepstral_distance(p.mels[0][:, p.matched[0]], p.mels[1][:, p.matched[1]]),
    "delta_variance": lambda p: metrics.delta_variance_ratio(*p.mels),
    "f0_rmse": lambda p: metrics.f0_rmse(*p.pitches),
    "vde": lambda p: metrics.voicing_decision_error(*p.pitches),
    "gpe": lambda p: metrics.gross_pitch_error(*p.pitches),
}


def _intrusive(computing: _Cells, reference: Wave, wave: Wave, how: Judge) -> _Pair | None:
    try:
        pair = _Pair(reference, wave, how.align)
    except InputError as error:
        computing.miss((*_INTRUSIVE, "similarity"), str(error))
        return None
    for name, value in _INTRUSIVE.items():
        computing.compute(name, lambda value=value: float(value(pair)))
    computing.compute(
        "similarity", lambda: speech_metrics.speaker_similarity(how.voice or pair.reference, pair.estimate)
    )
    return pair


def _opinions(computing: _Cells, wave: Wave) -> None:
    if not any(map(computing.how.wants, _DNSMOS)):
        return
    try:
        found = speech_metrics.dnsmos(wave)
    except (InputError, ImportError) as error:
        computing.miss(_DNSMOS, str(error))
        return
    for name, part in _DNSMOS.items():
        computing.compute(name, lambda part=part: getattr(found, part))


def _words(computing: _Cells, words: tuple[str, ...] | None, wave: Wave, how: Judge) -> tuple[Edits | None, str | None]:
    if words is None or how.recogniser is None or not how.wants("wer"):
        return None, None
    heard = how.recogniser(wave)
    counted = edits(words, heard)
    computing.compute("wer", lambda: counted.total / counted.words)
    return counted, " ".join(heard)
