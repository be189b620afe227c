"""Train the singing model that the package ships: the Erithacus voicebank, singing random melodies.

    python packages/audio/examples/train_shipped_singing.py OUT [--steps N] [--device auto|cpu] [--install]

Interrupt it and run it again: it goes on where it stopped. The defaults take about an hour on one CPU core.
``OUT/data`` and ``OUT/held_out`` are data sets as `degauss-audio train` reads them, ``OUT/model`` is the model with its
``card.json`` beside it; with ``--score`` an existing one is only measured, with ``--install`` it is copied to where the
package looks for it.

The melodies are drawn: a key, a scale, a tempo, a walk over the notes with rests and slurs, and syllables of the bank.
`degauss.audio.voicebank_songs` sings them, so phones, durations, notes and f0 are exactly known. The bank was recorded
around C#3; it is sung from A2 to A4, as beyond that the envelopes of a low voice no longer fit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _shipping import MEL, corpora, finish, parser, trained, vocoder_for
from sing_a_song import SYLLABLES, melody, on_syllables

from degauss.audio import datasets
from degauss.audio.acoustic import AcousticModel
from degauss.audio.lyrics import Note, japanese, sung
from degauss.audio.metrics import steady_note_errors
from degauss.audio.pitch import f0_harvest
from degauss.audio.score import Score, note_pitch, read_ds, write_ds
from degauss.audio.synthesis import render, transposed
from degauss.audio.transcription import Entry, write_transcriptions
from degauss.audio.voicebank_songs import Voicebank, sing
from degauss.audio.waves import mono, write
from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.core.options import progress
from degauss.core.places import data_root
from degauss.core.train import Shuffle

VOICE = "erithacus"
LOW, HIGH = 45, 69
SONGS, HELD_OUT = 360, 20
SECONDS = 6.0  # of a phrase, about
SCALES = (
    (0, 2, 4, 5, 7, 9, 11),  # major
    (0, 2, 3, 5, 7, 8, 10),  # minor
    (0, 2, 4, 7, 9),  # pentatonic
    tuple(range(12)),
)
BEATS = (0.5, 0.5, 1.0, 1.0, 1.0, 1.5, 2.0, 3.0)
STEPS = (-4, -2, -2, -1, -1, -1, 0, 1, 1, 1, 2, 2, 4)  # along the scale
REST, SLUR = 0.1, 0.1  # how often
MEASURED = 20.0  # s of each song


# --- melodies -------------------------------------------------------------------------------------------------


def phrase(number: int, syllables: list[str]) -> list[Note]:
    """A random phrase, the same for the same number."""
    draws = Noise(0, [number]).uniform(torch.empty(1, 4 + 5 * 64))[0].tolist()
    key, scale, tempo, start = draws[:4]
    degrees = SCALES[int(scale * len(SCALES))]
    ladder = [pitch for pitch in range(LOW, HIGH + 1) if (pitch - int(12 * key)) % 12 in degrees]
    beat = 60 / (60 + 90 * tempo)
    order = Shuffle(len(syllables), seed=0)(range(64 * number, 64 * number + 64)).tolist()
    notes: list[Note] = []
    at, place = 0.4, int(start * len(ladder))
    for k in range(64):
        step, length, rest, slur, _ = draws[4 + 5 * k : 9 + 5 * k]
        place += STEPS[int(step * len(STEPS))]
        place = -place if place < 0 else min(place, 2 * (len(ladder) - 1) - place)  # back at either end
        seconds = BEATS[int(length * len(BEATS))] * beat
        resting = bool(notes) and rest < REST
        at += beat if resting else 0.0
        joined = bool(notes) and not resting and slur < SLUR
        notes.append(Note(at, at + seconds, ladder[place], "-" if joined else syllables[order[k]]))
        at += seconds
        if at > SECONDS:
            break
    return notes


def write_songs(folder: Path, numbers: range, bank: Voicebank) -> None:
    """Sing phrases of these numbers into a data set, unless it is there."""
    if (folder / "transcriptions.csv").is_file():
        return
    syllables = sorted(one.romaji for one in bank.syllables.values())
    entries: list[Entry] = []
    with progress(f"singing {folder.name}") as report:
        for done, number in enumerate(numbers, 1):
            for part, segment in enumerate(sung(phrase(number, syllables), japanese)):
                name, song = f"song{number:04d}_{part}", sing(bank, segment)
                write(folder / "wavs" / f"{name}.wav", song.wave)
                write_ds(folder / "ds" / f"{name}.ds", [song.segment])
                entries.append(Entry(name, song.segment, VOICE))
            report(done, len(numbers))
    write_transcriptions(folder / "transcriptions.csv", entries)
    print(f"{folder.name}: {len(entries)} phrases, {sum(one.segment.duration for one in entries) / 60:.0f} minutes")


# --- how good the model is ------------------------------------------------------------------------------------


def songs() -> Iterator[tuple[str, Score]]:
    """The first seconds of the melodies of the eight .ds songs on syllables, each phrase in an octave that fits."""
    for path in sorted((data_root() / "audio" / "scores" / "ds").glob("*.ds")):
        found: list[Any] = []
        for segment in on_syllables([note for one in read_ds(path) for note in melody(one)], SYLLABLES.split()):
            pitches = [pitch for name in segment.notes if (pitch := note_pitch(name)) is not None]
            octaves = [12 * k for k in range(-3, 4)]
            shifts = [k for k in octaves if min(pitches) + k >= LOW and max(pitches) + k <= HIGH]
            if shifts and sum(one.duration for one in found) < MEASURED:
                found.append(transposed(segment, shifts[len(shifts) // 2]))
        yield path.stem, tuple(found)


def in_tune(model: AcousticModel) -> dict[str, Any]:
    """How far steady notes are from the score, in cents, by song."""
    vocoder, hop = vocoder_for(model), 80
    rows: dict[str, Any] = {}
    every: list[torch.Tensor] = []
    for name, score in songs():
        cents: list[torch.Tensor] = []
        unsung = 0
        for number, segment in enumerate(score):
            made = render(model, segment, vocoder, voice=VOICE, sample=number)
            heard = f0_harvest(mono(made.wave), made.wave.rate, hop, low=70.0, high=700.0)
            try:
                found = steady_note_errors(heard, hop / made.wave.rate, segment.notes, segment.note_durations)
            except InputError:  # not one of its notes is heard
                unsung += sum(note_pitch(note) is not None for note in segment.notes)
                continue
            cents.append(found.cents)
            unsung += found.unsung
        if cents:
            rows[name] = {**spread(torch.cat(cents)), "unsung": unsung}
            every += cents
    if not every:
        return {"what": "no song was found to sing"}
    return {
        "what": "cents between the score and the median f0 of each note's middle half",
        **rows,
        "all": spread(torch.cat(every)),
    }


def spread(cents: torch.Tensor) -> dict[str, float]:
    return {
        "notes": len(cents),
        "rmse": round(float(cents.square().mean().sqrt()), 1),
        "median": round(float(cents.abs().median()), 1),
        "share_beyond_50": round(float((cents.abs() > 50).double().mean()), 3),
    }


def run(arguments: argparse.Namespace) -> None:
    if not arguments.score:
        bank = Voicebank.of(datasets.voicebank(), MEL.rate)
        write_songs(arguments.out / "data", range(SONGS), bank)
        write_songs(arguments.out / "held_out", range(SONGS, SONGS + HELD_OUT), bank)
    model = trained(arguments, *corpora(arguments.out))
    sources = ["songs made for this from the Erithacus voicebank, by Erithacus (CC BY 4.0)"]
    finish("singing", arguments, model, sources, "CC BY 4.0, credit Erithacus", in_tune)


if __name__ == "__main__":
    run(parser(__doc__, auxiliary_steps=2500, steps=9000).parse_args())
