"""A voice of your own from a folder of recordings: prepare, train, speak.

    python packages/audio/examples/own_voice.py [recordings] [--text "What to say"] [--steps N] [--out own]

RECORDINGS has NAME.wav and beside each NAME.txt, what is said in it in English; half an hour of one person in a quiet
room is a good start. Without it, a folder of a made-up voice is written that says vowels, with NAME.lab: phones in
time. The sizes are those of a toy, a minute on one CPU core; `degauss-audio train` has larger ones, and 'degauss-audio
fit-boundary' and 'speak' go on from OUT/run/model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from degauss.audio.acoustic import AcousticConfig
from degauss.audio.acoustic_data import read_corpus
from degauss.audio.acoustic_training import Recipe, fit
from degauss.audio.plots import sound_picture
from degauss.audio.preparation import prepare, recordings
from degauss.audio.synthesis import Sampling, from_text, render
from degauss.audio.synthetic_corpus import write_sung_vowels
from degauss.audio.vocoders import SHIPPED, open_vocoder
from degauss.audio.waves import write
from degauss.core.errors import InputError
from degauss.core.options import progress

MADE_UP_TEXT = "{iy aa uw eh}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, nargs="?")
    parser.add_argument("--text", help="what to say; phones in braces are said as they are")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("own"))
    arguments = parser.parse_args()
    try:
        speak(arguments)
    except InputError as error:
        parser.exit(2, f"{error}\n")


def speak(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    folder = arguments.recordings or made_up(out / "recordings")
    text = arguments.text or (MADE_UP_TEXT if arguments.recordings is None else "This is my own voice.")

    sources = recordings(folder)
    with progress("preparing") as report:
        found = prepare(sources, out / "data", report=report)
    print(f"{found.written} recordings prepared, {found.there} were there")
    for name, reason in found.refused.items():
        print(f"  {name} refused: {reason}")

    corpus = read_corpus(out / "data")
    config = AcousticConfig(
        corpus.phones, corpus.voices, corpus.mel, hidden=48, blocks=2, kernel=5, channels=48, layers=6, prediction="x0"
    )
    segment = from_text(text)
    missing = sorted(set(segment.phones) - set(corpus.phones))
    if missing:
        raise InputError(
            f"{text!r} needs the phones {' '.join(missing)}, which no recording has; expected other words."
        )
    train, held_out = corpus.split(len(corpus.items) // 20)
    recipe = Recipe(out / "run", auxiliary_steps=arguments.steps, steps=arguments.steps, batch=8, device="cpu")
    model = fit(config, train, held_out if held_out.items else None, recipe)

    vocoder = open_vocoder("neural" if SHIPPED.is_dir() else "world", model.config.mel)
    made = render(model, segment, vocoder, Sampling(), voice=model.config.voices[0])
    write(out / "spoken.wav", made.wave)
    sound_picture(out / "spoken.png", made.wave, model.config.mel, made.f0, text)
    print(f"wrote {out / 'run' / 'model'} and, of it, {out / 'spoken.wav'} ({made.wave.duration:.1f} s)")


def made_up(folder: Path) -> Path:
    """A folder as a user would bring it: sounds, and labels beside each."""
    for entry in write_sung_vowels(folder, count=24):
        sound = folder / "wavs" / f"{entry.name}.wav"
        sound.replace(folder / sound.name)
        lines: list[str] = []
        at = 0.0
        for phone, seconds in zip(entry.segment.phones, entry.segment.durations, strict=True):
            lines.append(f"{at:.5f} {at + seconds:.5f} {phone}\n")
            at += seconds
        (folder / f"{entry.name}.lab").write_text("".join(lines), encoding="utf-8")
    (folder / "wavs").rmdir()
    (folder / "transcriptions.csv").unlink()
    return folder


if __name__ == "__main__":
    main()
