"""Sing a song from a .ds file.

    python packages/audio/examples/sing_a_song.py [song.ds] [--checkpoint MODEL | --toy] [--syllables "ra na"]

Without a song, a nursery tune is sung. MODEL is what `degauss-audio train` wrote; without one, the model that ships
with the package is used; with ``--toy`` a toy that knows five vowels is trained for a minute and used instead.

A .ds file has phones of its own. Where the model does not know them, as with a song in another language, its melody is
sung on syllables. It is moved by whole octaves, or if need be by semitones, to where the voice is at home.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, cycle
from pathlib import Path

from degauss.audio.acoustic import AcousticConfig, AcousticModel
from degauss.audio.acoustic_data import read_corpus
from degauss.audio.acoustic_training import Recipe, fit
from degauss.audio.commands.acoustic_options import WEIGHTS
from degauss.audio.japanese import phones_of
from degauss.audio.lyrics import Note, sung
from degauss.audio.plots import sound_picture
from degauss.audio.score import Score, Segment, note_pitch, read_ds, write_ds
from degauss.audio.synthesis import Sampling, check_song, sing, transposed
from degauss.audio.synthetic_corpus import write_sung_vowels
from degauss.audio.vocoders import SHIPPED, Vocoder, open_vocoder
from degauss.audio.waves import write
from degauss.core.errors import InputError
from degauss.core.options import progress

# Twinkle, twinkle, little star: MIDI numbers and quarters.
TUNE = (
    (60, 1), (60, 1), (67, 1), (67, 1), (69, 1), (69, 1), (67, 2),
    (65, 1), (65, 1), (64, 1), (64, 1), (62, 1), (62, 1), (60, 2),
)  # fmt: skip
QUARTER = 0.5  # s
SYLLABLES = "ra na do mi so yu ka re"
TOY_SYLLABLES = "aa iy eh ow uw"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song", type=Path, nargs="?")
    parser.add_argument("--checkpoint", type=Path, default=WEIGHTS / "singing")
    parser.add_argument("--toy", type=int, nargs="?", const=400, metavar="STEPS", help="train a toy and use that")
    parser.add_argument("--syllables", help=f"what to sing ({SYLLABLES})")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, default=Path("song.wav"))
    arguments = parser.parse_args()
    if arguments.toy is None and not arguments.checkpoint.exists():
        print(f"{arguments.checkpoint}: no model there; train one with 'degauss-audio train', or a toy with --toy.")
        return
    try:
        sing_song(arguments)
    except InputError as error:
        parser.exit(2, f"{error}\n")


def sing_song(arguments: argparse.Namespace) -> None:
    wanted = (arguments.syllables or "").split()
    for syllable in wanted:
        spelled(syllable)  # a wrong one is said before anything is made
    if arguments.song is None:
        arguments.song = arguments.out.with_suffix(".ds")
        write_ds(arguments.song, on_syllables(tune(), SYLLABLES.split()))
    score = read_ds(arguments.song)
    toy = arguments.toy is not None
    model = toy_model(arguments.toy) if toy else AcousticModel.load(arguments.checkpoint)
    if wanted or not set().union(*(segment.phones for segment in score)) <= set(model.config.phones):
        syllables = wanted or (TOY_SYLLABLES if toy else SYLLABLES).split()
        print(f"sung on {' '.join(syllables)}")
        score = on_syllables([note for segment in score for note in melody(segment)], syllables)
    voice = model.config.voices[0]
    score = at_home(model, voice, score)
    check_song(model, voice, score, arguments.song)
    with progress("singing") as report:
        song = sing(model, score, vocoder_for(model), Sampling(steps=arguments.steps), voice=voice, report=report)
    write(arguments.out, song.wave)
    picture = arguments.out.with_suffix(".png")
    sound_picture(picture, song.wave, model.config.mel, song.f0, arguments.song.stem)
    factor = song.report["real_time_factor"]
    print(f"wrote {arguments.out} ({song.wave.duration:.1f} s, at {factor:.2f} of real time) and {picture}")


# --- the song -------------------------------------------------------------------------------------------------


def tune() -> Iterator[Note]:
    at = 0.5
    for pitch, quarters in TUNE:
        yield Note(at, at + quarters * QUARTER, pitch)
        at += quarters * QUARTER


def melody(segment: Segment) -> Iterator[Note]:
    """The notes of a segment without its words; those that are slurred keep that."""
    ends = list(accumulate(segment.note_durations, initial=segment.offset))
    slurs = segment.slurs or (0,) * len(segment.notes)
    resting = True
    for name, slur, start, end in zip(segment.notes, slurs, ends, ends[1:], strict=False):
        pitch = note_pitch(name)
        if pitch is not None:
            yield Note(start, end, pitch, "-" if slur and not resting else "la")
        resting = pitch is None


def on_syllables(notes: Sequence[Note] | Iterator[Note], syllables: Sequence[str]) -> Score:
    """A melody on syllables in turn: in romaji, or vowels of ARPAbet."""
    words = cycle(syllables)
    told = [note if note.lyric == "-" else replace(note, lyric=next(words)) for note in notes]
    return sung(told, lambda lyrics: [spelled(lyric) for lyric in lyrics])


def spelled(syllable: str) -> tuple[str, ...]:
    return (syllable,) if syllable in TOY_SYLLABLES.split() else phones_of(syllable)


def at_home(model: AcousticModel, voice: str, score: Score) -> Score:
    """The song where the voice sings: by as many octaves as bring it nearest, or by semitones if that is too far."""
    pitches = [pitch for segment in score for name in segment.notes if (pitch := note_pitch(name)) is not None]
    if not pitches or voice not in model.facts.ranges:
        return score
    span = model.facts.ranges[voice]
    away = (span.low + span.high - min(pitches) - max(pitches)) / 2
    octaves = 12 * math.floor(away / 12 + 0.5)
    fits = span.low <= min(pitches) + octaves and max(pitches) + octaves <= span.high
    shift = octaves if fits else round(away)
    if shift:
        print(f"moved by {shift:+d} semitones")
    return tuple(transposed(segment, shift) for segment in score)


# --- the voice ------------------------------------------------------------------------------------------------


def vocoder_for(model: AcousticModel) -> Vocoder:
    return open_vocoder("neural" if SHIPPED.is_dir() else "world", model.config.mel)


def toy_model(steps: int) -> AcousticModel:
    """A voice that knows five vowels, of so many steps of training."""
    print("training a toy ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_sung_vowels(Path(folder, "vowels"), count=24)
        corpus = read_corpus(Path(folder, "vowels"))
        config = AcousticConfig(
            corpus.phones, corpus.voices, corpus.mel, hidden=32, blocks=1, kernel=5, channels=32, layers=4,
            prediction="x0",
        )  # fmt: skip
        recipe = Recipe(Path(folder, "run"), auxiliary_steps=max(steps // 2, 1), steps=steps, batch=8, device="cpu")
        return fit(config, corpus, None, recipe)


if __name__ == "__main__":
    main()
