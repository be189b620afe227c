"""`degauss-audio metrics`: how good recordings are, against references or by themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_option
from degauss.core.options import check_place, progress

if TYPE_CHECKING:
    from degauss.audio.metrics_report import Item, Judge, Report


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Measure recordings: by all measures against --reference, by DNSMOS alone, and by what --text and --voice tell.

    Writes OUT.csv (a row a file), OUT.html (a page to read) and OUT.json (all numbers, means, and why a number is not
    there). PESQ, ESTOI, DNSMOS and speaker similarity need pip install "degauss-audio[metrics]".
    """

    estimate: Positional[Path]
    """A sound file, or a folder of them: what is to be judged."""
    reference: Path | None = None
    """What it should have been: a file, or a folder with a file of the same name for each."""
    text: Path | None = None
    """What is said: a CSV file with columns name and text. Gives the word error rate of a speech recogniser."""
    recogniser: Literal["digits", "english"] = "digits"
    """What it listens for: strings of digits, or any English (which it is not good at)."""
    voice: Path | None = None
    """A recording of who should be speaking; the reference unless given."""
    align: Literal["frames", "dtw"] = "frames"
    """Compare spectra and pitch frame by frame, or by dynamic time warping: for speech whose timing is its own."""
    only: tuple[str, ...] = ()
    """Measures to compute, such as si_sdr estoi; all unless given."""
    out: Path = Path("metrics")
    """Where the report goes, without suffix."""

    def run(self) -> None:
        from degauss.audio.metrics_page import write_page
        from degauss.audio.metrics_report import judge
        from degauss.core.cli import provenance

        stem = self._stem()
        items, how = self._items(), self._judge()
        with progress("measuring") as report:
            found = judge(items, how, title=self._title(), report=report)
        found = replace(found, facts=self._settings() | provenance())
        found.write(stem)
        write_page(stem.with_suffix(".html"), found)
        _say(found, stem)

    def _items(self) -> list[Item]:
        from degauss.audio.metrics_report import pairs, with_words
        from degauss.audio.recognition import digits_of, words_of

        items = pairs(self.estimate, self.reference)
        if self.text is None:
            return items
        return with_words(items, self.text, digits_of if self.recogniser == "digits" else words_of)

    def _judge(self) -> Judge:
        from degauss.audio.metrics_report import Judge
        from degauss.audio.recognition import DigitRecogniser, EnglishRecogniser
        from degauss.audio.waves import read

        recogniser = None
        if self.text is not None:
            recogniser = DigitRecogniser() if self.recogniser == "digits" else EnglishRecogniser()
        voice = None if self.voice is None else read(self.voice)
        return Judge(self.align, recogniser, voice, self._only())

    def _only(self) -> frozenset[str] | None:
        from degauss.audio.metrics_report import BY_NAME

        return frozenset(check_option("only", name, BY_NAME) for name in self.only) or None

    def _stem(self) -> Path:
        if self.out.suffix not in ("", ".html"):
            raise InputError(f"{self.out}: three files of that name are written; expected a name without suffix.")
        stem = self.out.with_suffix("")
        if stem.is_dir():
            raise InputError(f"{stem}: is a folder; expected a name for the report, such as {stem / 'metrics'}.")
        check_place(stem)
        return stem

    def _title(self) -> str:
        against = "" if self.reference is None else f" against {self.reference.name}"
        return f"Metrics of {self.estimate.name}{against}"

    def _settings(self) -> dict[str, str]:
        names = ("estimate", "reference", "text", "recogniser", "voice", "align")
        return {name: str(getattr(self, name)) for name in names if getattr(self, name) is not None}


def _say(report: Report, stem: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("measure")
    for name in ("files", "mean", "sd"):
        table.add_column(name, justify="right")
    for name, summary in report.summary.items():
        sd = "" if summary.sd is None else f"{summary.sd:.3f}"
        table.add_row(name, str(summary.files), f"{summary.mean:.3f}", sd)
    Console().print(table)
    if report.reasons:
        print(f"{len(report.reasons)} kinds of cells are empty; {stem.with_suffix('.html')} says why")
    print(f"wrote {stem.with_suffix('.csv')}, {stem.with_suffix('.html')} and {stem.with_suffix('.json')}")
