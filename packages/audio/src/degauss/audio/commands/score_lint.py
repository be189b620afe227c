"""`degauss-audio score-lint`: what is wrong with a score, before it is sung."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError

if TYPE_CHECKING:
    from degauss.audio.lint import Fault, Limits


@dataclass(frozen=True, kw_only=True)
class ScoreLint:
    """Check a song: do phones, durations, notes and f0 agree, and can the voice sing it?

    Prints every fault with its place. The exit status is 0 if there is none, 1 if there are some, 2 if the song cannot
    be read at all.
    """

    song: Positional[Path]
    """A .ds file, or MIDI or MusicXML with lyrics."""
    checkpoint: Path | None = None
    """A singing model: the phones it knows, and the notes its voices were trained on."""
    voice: str | None = None
    """The voice of the checkpoint; one is enough to sing a note unless given."""
    phones: Path | None = None
    """A text file of the phones that are allowed, separated by spaces or lines."""
    lowest: str | None = None
    """The lowest note of the voice, such as C3."""
    highest: str | None = None
    """The highest note of the voice, such as A5."""
    language: Literal["japanese", "english"] = "japanese"
    """Of the lyrics in a MIDI or MusicXML file."""
    lyric: str | None = None
    """One syllable to sing all of a MIDI or MusicXML file on."""
    part: str | None = None
    """The part of a MusicXML file; the first with lyrics unless given."""
    verse: int = 1
    """The verse of a MusicXML file."""
    track: int | None = None
    """The track of a MIDI file, from 0; the one with most lyrics unless given."""
    out: Path | None = None
    """Write the faults to this JSON file too."""

    def run(self) -> None:
        from degauss.audio.lint import lint
        from degauss.audio.songs import Reading, read_song
        from degauss.core.files import atomic_path, write_json

        if self.out is not None and (self.out.suffix.lower() != ".json" or self.out.is_dir()):
            raise InputError(f"{self.out}: expected the name of a file that ends in .json.")
        limits = self._limits()
        score = read_song(self.song, Reading(self.language, self.lyric, self.part, self.verse, self.track))
        faults = lint(score, limits)
        if self.out is not None:
            with atomic_path(self.out) as part:
                write_json(
                    part,
                    {"song": str(self.song), "segments": len(score), "faults": [asdict(fault) for fault in faults]},
                )
        if not faults:
            print(f"{self.song}: {len(score)} segments, no fault")
            return
        _show(faults)
        print(
            f"{self.song}: {len(faults)} faults in {len({fault.segment for fault in faults})} of {len(score)} segments"
        )
        raise SystemExit(1)

    def _limits(self) -> Limits:
        from degauss.audio.lint import Limits
        from degauss.audio.score import note_pitch

        if self.checkpoint is not None and self.phones is not None:
            raise InputError("--checkpoint and --phones both say which phones are allowed; expected one of them.")
        if self.voice is not None and self.checkpoint is None:
            raise InputError("--voice names a voice of a checkpoint; expected --checkpoint with it.")
        known = Limits()
        if self.checkpoint is not None:
            known = _of_checkpoint(self.checkpoint, self.voice)
        elif self.phones is not None:
            known = Limits(phones=_listed(self.phones))
        lowest = known.lowest if self.lowest is None else note_pitch(self.lowest)
        highest = known.highest if self.highest is None else note_pitch(self.highest)
        return Limits(known.phones, lowest, highest)


def _of_checkpoint(folder: Path, voice: str | None) -> Limits:
    """What a model can sing, from its config.json alone."""
    from degauss.audio.lint import Limits
    from degauss.core.files import read_json

    path = folder / "config.json"
    try:
        config: dict[str, Any] = read_json(path)["config"]
        phones, voices = list(config["phones"]), list(config["voices"])
        ranges: dict[str, tuple[float, float]] = config["facts"]["ranges"]
    except (KeyError, TypeError):
        raise InputError(f"{path}: is not that of an acoustic model; expected phones, voices and ranges.") from None
    if voice is not None and voice not in voices:
        raise InputError(f"{folder}: has no voice {voice!r}; expected one of {', '.join(voices)}.")
    chosen = [tuple(pair) for name, pair in ranges.items() if voice in (None, name)]
    if not chosen:
        return Limits(phones)
    # A semitone beyond what was heard is still sung well.
    return Limits(phones, min(low for low, _ in chosen) - 1, max(high for _, high in chosen) + 1)


def _listed(path: Path) -> list[str]:
    try:
        phones = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the list of phones cannot be read ({error}).") from None
    if not phones:
        raise InputError(f"{path}: is empty; expected phones separated by spaces or lines.")
    return phones


def _show(faults: Sequence[Fault]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("segment", justify="right")
    table.add_column("field")
    table.add_column("place", justify="right")
    table.add_column("time", justify="right")
    table.add_column("fault", overflow="fold")
    for fault in faults:
        place = "" if fault.place is None else str(fault.place)
        time = "" if fault.time is None else f"{fault.time:.2f} s"
        table.add_row(str(fault.segment), fault.field, place, time, Text(fault.message))
    Console().print(table)
