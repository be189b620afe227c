"""`degauss-audio speak`: text to speech, one sentence or a table of them."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tyro.conf import Positional

from degauss.audio.commands.acoustic_options import Opened, VoiceOptions, beside, check_sound, write_sound
from degauss.core.errors import InputError
from degauss.core.options import Report, check_directory, progress

if TYPE_CHECKING:
    from degauss.audio.score import Segment


class Line(NamedTuple):
    """What is said and by whom, and the name of its files."""

    name: str
    text: str
    voice: str | None


@dataclass(frozen=True, kw_only=True)
class Speak(VoiceOptions):
    """Say something. Beside the sound go a picture of it (.png) and what was done (.json).

    English is read from a pronouncing dictionary; a phone in braces is taken as it is: "{hh ah l ow} world".
    """

    text: Positional[str] = ""
    """What to say; - reads it from standard input."""
    out: Path = Path("speech.wav")
    """The sound to write; with --list, a folder."""
    list: Path | None = None
    """A CSV file with columns name, text and perhaps voice: a sound for each line. Lines that are there already, with
    the same text, voice and settings, are not made again."""
    rate: float = 1.0
    """Speed: 2 is twice as fast."""
    guess: bool = False
    """Ask the program espeak-ng about words that the dictionary lacks."""
    picture: bool = True
    """Whether to draw the picture."""

    def run(self) -> None:
        lines = self._lines()
        if self.list is None:
            check_sound(self.out)
        else:
            check_directory(self.out)
        opened = self.opened("speech", self.rate)
        segments = [self._segment(line, opened) for line in lines]
        if self.list is None:
            with progress("speaking") as report:
                self._speak(lines[0], segments[0], self.out, opened, report)
            return
        made = 0
        with progress("speaking") as report:
            for number, (line, segment) in enumerate(zip(lines, segments, strict=True)):
                out = self.out / f"{line.name}.wav"
                if not self._done(out, line, segment, opened):
                    self._speak(line, segment, out, opened, None)
                    made += 1
                report(number + 1, len(lines))
        print(f"wrote {made} of {len(lines)} sounds to {self.out}; the others were there")

    def _lines(self) -> Sequence[Line]:
        if (self.list is None) == (not self.text):
            raise InputError("there is nothing to say; expected a text, - for standard input, or --list FILE.")
        if self.list is not None:
            return read_list(self.list, self.voice)
        text = sys.stdin.read() if self.text == "-" else self.text
        return [Line(self.out.stem, text, self.voice)]

    def _segment(self, line: Line, opened: Opened) -> Segment:
        """What a line says, checked before anything is made."""
        from degauss.audio.phones import espeak, refuse
        from degauss.audio.synthesis import from_text

        where = "" if self.list is None else f"{self.list}, {line.name!r}: "
        try:
            segment = from_text(line.text, espeak if self.guess else refuse)
            opened.model.phone_numbers(segment.phones)
            opened.model.voice(line.voice)
        except InputError as error:
            raise InputError(f"{where}{error}") from None
        return segment

    def _settings(self, line: Line, segment: Segment, opened: Opened) -> dict[str, object]:
        """What a sound follows from, as its JSON says it: not its place in a list."""
        solver, steps, _ = opened.sampling.of(opened.model)
        return {
            "said": line.text,
            "phones": [*segment.phones],
            "voice": opened.model.config.voices[opened.model.voice(line.voice)],
            "seed": self.seed,
            "solver": solver,
            "steps": steps,
            "k": self.k,
            "rate": self.rate,
            "vocoder": type(opened.vocoder).__name__,
            "checkpoint_sha256": opened.sha256,
        }

    def _done(self, out: Path, line: Line, segment: Segment, opened: Opened) -> bool:
        from degauss.core.files import read_json

        record = beside(out, ".json")
        if not (out.is_file() and record.is_file()):
            return False
        return read_json(record).get("settings") == self._settings(line, segment, opened)

    def _speak(self, line: Line, segment: Segment, out: Path, opened: Opened, report: Report | None) -> None:
        from degauss.audio.synthesis import render

        made = render(opened.model, segment, opened.vocoder, opened.sampling, voice=line.voice, report=report)
        about = {"settings": self._settings(line, segment, opened), **made.report}
        write_sound(out, made.wave, made.f0, opened, about, line.text.strip()[:80], self.picture)
        if self.list is None:
            factor = made.report["real_time_factor"]
            print(f"wrote {out}: {made.wave.duration:.2f} s at {factor:.2f} of real time")


def read_list(path: Path, voice: str | None) -> list[Line]:
    """The lines of a table of name, text and perhaps voice. `InputError` names the line that cannot be used."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [dict(row) for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV in UTF-8 ({error}).") from None
    if not rows:
        raise InputError(f"{path}: has no lines; expected a header with name and text, and a line for each sound.")
    lines: list[Line] = []
    for number, row in enumerate(rows, 2):
        name, text = (row.get("name") or "").strip(), (row.get("text") or "").strip()
        if not name or not text:
            raise InputError(f"{path}, line {number}: name or text is missing or empty.")
        if Path(name).name != name:
            raise InputError(f"{path}, line {number}: {name!r} is no name of a file; expected one without folders.")
        lines.append(Line(name, text, (row.get("voice") or "").strip() or voice))
    names = [line.name for line in lines]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: has the name {twice!r} twice; expected each once.")
    return lines
