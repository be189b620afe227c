"""Speak the digits of a table, a sound a row, and say how many of them a recogniser understands.

    python packages/audio/examples/digits_from_table.py [--table digits.csv] [--checkpoint MODEL] [--out spoken]

The table is a CSV file with columns name and text, the text being digits ("731" or "seven three one"); without one, ten
rows are made up. MODEL is what `degauss-audio train` wrote; without one, the model that ships with the package is used.
Writes OUT/NAME.wav for each row, and OUT/metrics.html with what was heard in each. A second a row on one CPU core.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from degauss.audio.acoustic import AcousticModel
from degauss.audio.commands.acoustic_options import WEIGHTS
from degauss.audio.metrics_page import write_page
from degauss.audio.metrics_report import Item, Judge, judge, with_words
from degauss.audio.recognition import DigitRecogniser, digits_of
from degauss.audio.synthesis import Sampling, from_text, render
from degauss.audio.vocoders import open_vocoder
from degauss.audio.waves import write
from degauss.core.errors import InputError

MADE_UP = ("731", "402", "95", "8", "1609", "27", "33", "5846", "0", "914")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("digits.csv"))
    parser.add_argument("--checkpoint", type=Path, default=WEIGHTS / "speech")
    parser.add_argument("--voice")
    parser.add_argument("--vocoder", default="world")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, default=Path("spoken"))
    arguments = parser.parse_args()
    if not arguments.checkpoint.exists():
        print(f"{arguments.checkpoint}: no model there; train one with 'degauss-audio train' and name it.")
        return
    try:
        speak_table(arguments)
    except InputError as error:
        parser.exit(2, f"{error}\n")


def speak_table(arguments: argparse.Namespace) -> None:
    if not arguments.table.exists():
        write_table(arguments.table)
    items = rows_of(arguments.table, arguments.out)
    model = AcousticModel.load(arguments.checkpoint)
    vocoder = open_vocoder(arguments.vocoder, model.config.mel)
    seconds = spoken = 0.0
    for number, item in enumerate(items):
        segment = from_text(" ".join(item.words or ()))
        made = render(model, segment, vocoder, Sampling(steps=arguments.steps), voice=arguments.voice, sample=number)
        write(item.estimate, made.wave)
        seconds += made.report["seconds"]
        spoken += made.wave.duration

    found = judge(items, Judge(recogniser=DigitRecogniser(), only=frozenset({"wer"})), title="Digits from a table")
    found.write(arguments.out / "metrics")
    write_page(arguments.out / "metrics.html", found)
    right = sum(row.values["wer"] == 0 for row in found.rows)
    print(f"{len(items)} sounds, {spoken:.1f} s, at {seconds / spoken:.2f} of real time")
    print(f"{right} rows understood without a mistake; {found.whole['wer']:.0%} of the digits wrong")
    print(f"wrote {arguments.out / 'metrics.html'}")


def rows_of(table: Path, out: Path) -> list[Item]:
    """What is said in each row, and where its sound goes."""
    with table.open(encoding="utf-8-sig", newline="") as file:
        names = [str(row.get("name") or "") for row in csv.DictReader(file)]
    items = [Item(name, out / f"{name}.wav") for name in names]
    return with_words(items, table, digits_of)


def write_table(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("name", "text"), *((f"row{k:02d}", text) for k, text in enumerate(MADE_UP, 1))])


if __name__ == "__main__":
    main()
