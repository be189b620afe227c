"""`degauss-audio prepare`: recordings and what is said in them -> a data set to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_range
from degauss.core.options import progress

if TYPE_CHECKING:
    from degauss.audio.preparation import Recording, Summary


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Find phones, durations, f0 and notes in recordings: no other aligner is needed. Run it again and it goes on.

    SOURCE is a folder: with metadata.csv (lines id|raw|normalised) as LJSpeech has; or with sound files and, beside
    each, NAME.txt (what is said, in English) or NAME.lab (the same, or timed phones); or an UTAU voicebank (oto.ini);
    or folders of these, each a voice. With --flite it is a text file, a sentence a line.

    Writes OUT/transcriptions.csv, wavs/, TextGrid/ (for Praat), ds/ (scores with f0) and prepare.json, which says why
    recordings were refused.
    """

    source: Positional[Path]
    """A folder of recordings; with --flite a text file of sentences."""
    out: Path = Path("dataset")
    """Folder of the data set; more recordings may be added to one that is there."""
    voice: str = "voice"
    """Whose voice it is; folders of folders are named by these."""
    kind: Literal["speech", "singing"] = "speech"
    """Singing gets notes, estimated from its pitch."""
    flite: str | None = None
    """A voice of the program flite (slt, rms, awb, kal16, ...) that says the sentences."""
    unknown: Literal["refuse", "espeak"] = "refuse"
    """A word that is not in the dictionary: refuse the recording, or ask the program espeak-ng how it is said."""
    rate: int = 16_000
    """Samples a second of the data set."""
    low: float = 50.0
    """Lowest pitch of the voice, in Hz."""
    high: float = 1000.0
    """Highest pitch of the voice, in Hz."""

    def run(self) -> None:
        from degauss.audio.preparation import REPORT, Settings, prepare
        from degauss.core.cli import provenance

        check_range("rate", self.rate, 8000, 192_000, "Hz")
        check_range("low", self.low, 20, unit="Hz")
        check_range("high", self.high, 2 * self.low, self.rate / 4, "Hz")
        sources = self._sources()
        settings = Settings(self.kind, self.rate, self.low, self.high)
        with progress("preparing") as report:
            found = prepare(sources, self.out, settings, {"source": str(self.source)} | provenance(), report)
        _say(found, sources)
        print(f"wrote {self.out / REPORT}, transcriptions.csv, wavs, TextGrid and ds beside it")

    def _sources(self) -> Sequence[Recording]:
        from degauss.audio.phones import espeak, refuse
        from degauss.audio.preparation import recordings, sentences

        if self.flite is not None:
            return sentences(self.source, self.flite)
        if self.source.is_file():
            raise InputError(f"{self.source}: is a file; expected a folder of recordings (or --flite VOICE).")
        if self.out.resolve() == self.source.resolve():
            raise InputError(f"{self.out}: is where the recordings are; expected another folder for the data set.")
        return recordings(self.source, self.voice, espeak if self.unknown == "espeak" else refuse)


def _say(found: Summary, sources: Sequence[Recording]) -> None:
    before = f", {found.there} were there" if found.there else ""
    print(f"{found.written} of {len(sources)} recordings prepared{before}, {len(found.refused)} refused")
    for reason in list(found.refused.values())[:10]:
        print(f"refused: {reason}")
    if len(found.refused) > 10:
        print(f"... and {len(found.refused) - 10} more")
