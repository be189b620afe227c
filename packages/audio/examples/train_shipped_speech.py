"""Train the speech model that the package ships: six people who say digits, and four voices of flite that say anything.

    python packages/audio/examples/train_shipped_speech.py OUT [--steps N] [--device auto|cpu] [--install]

Interrupt it and run it again: it goes on where it stopped. The defaults take about an hour on one CPU core.
``OUT/data`` and ``OUT/held_out`` are data sets as `degauss-audio prepare` writes them, ``OUT/model`` is the model with
its ``card.json`` beside it; with ``--score`` an existing one is only measured, with ``--install`` it is copied to where
the package looks for it.

The digits are those of the Free Spoken Digit Dataset, joined to strings of one to four with pauses or without, and
aligned by pocketsphinx. flite's voices (slt, rms, awb, kal16, where flite is installed) say the sentences of
``examples/data/sentences.txt`` and strings of digits, with the times that flite gives. Takes 0 to 4 of each digit,
every fifteenth sentence and every tenth of flite's strings are kept out.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from _shipping import corpora, finish, parser, trained, vocoder_for
from torch import Tensor

from degauss.audio import datasets
from degauss.audio.acoustic import AcousticModel
from degauss.audio.alignment import RATE, Aligned, align_words
from degauss.audio.phones import read_text
from degauss.audio.preparation import Flite, Recording, Settings, Source, prepare
from degauss.audio.recognition import DIGITS, digit_accuracy
from degauss.audio.synthesis import from_text, render
from degauss.audio.waves import Wave, mono, read, resample
from degauss.core.noise import Noise
from degauss.core.options import progress
from degauss.core.train import Shuffle

SENTENCES = Path(__file__).parent / "data" / "sentences.txt"
FLITE = ("slt", "rms", "awb", "kal16")
FLITE_STRINGS = 60
LENGTHS = (3, 4, 2, 3, 4, 2, 1)  # digits of one string after the other
LOUDNESS = 0.08  # root mean square of what is said
FADE = 0.005  # s
MARGIN = 0.16  # s of silence around a string


# --- strings of digits ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strung:
    """Digits of one person joined to a string: each begins ``gaps[k]`` seconds after the one before ends."""

    takes: tuple[datasets.Digit, ...]
    gaps: tuple[float, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(DIGITS[take.digit] for take in self.takes)

    def read(self) -> tuple[Wave, list[Aligned]]:
        wave = self.sound()
        return wave, align_words(mono(wave), read_text(" ".join(self.words)), " ".join(self.words))

    def sound(self) -> Wave:
        """The string, as loud as all the others."""
        waves = [read(take.path) for take in self.takes]
        sounds, rate = [mono(wave) for wave in waves], waves[0].rate
        hush = min(quietest(sound, rate) for sound in sounds)
        lengths = [round(rate * seconds) for seconds in (MARGIN, *self.gaps, MARGIN)]
        total = sum(lengths) + sum(map(len, sounds))
        # The hiss of the recording goes on under the pauses, else the model would learn where takes were cut.
        out = hush * Noise(0, [self.takes[0].take]).normal(torch.empty(1, total))[0]
        at = 0
        for silence, sound in zip(lengths, sounds, strict=False):
            at += silence
            out[at : at + len(sound)] += faded(sound, round(rate * FADE))
            at += len(sound)
        return resample(Wave(levelled(out, rate)[None], rate), RATE)


def frames_rms(x: Tensor, rate: int) -> Tensor:
    """The root mean square of each 10 ms."""
    size = rate // 100
    return x[: max(len(x) // size, 1) * size].unfold(0, min(size, len(x)), min(size, len(x))).square().mean(1).sqrt()


def quietest(x: Tensor, rate: int) -> float:
    return float(frames_rms(x, rate).quantile(0.05))


def levelled(x: Tensor, rate: int) -> Tensor:
    """Sound made as loud as all the others, where it is not silent; turned down if it would clip."""
    rms = frames_rms(x, rate)
    said = rms[rms > 0.05 * rms.max()]
    out = x * (LOUDNESS / said.square().mean().sqrt())
    return out / (out.abs().max() / 0.95).clamp_min(1.0)


def faded(x: Tensor, length: int) -> Tensor:
    ramp = torch.linspace(0, 1, length)
    out = x.clone()
    out[:length] *= ramp
    out[-length:] *= ramp.flip(0)
    return out


def strings(takes: Sequence[datasets.Digit], seed: int) -> Iterator[Strung]:
    """Every take of one person once, in strings; every other string is said in one breath, without pauses."""
    order = iter(Shuffle(len(takes), seed)(range(len(takes))).tolist())
    number = 0
    while chosen := list(islice(order, LENGTHS[number % len(LENGTHS)])):
        draws = Noise(seed, [number]).uniform(torch.empty(1, len(chosen) - 1))[0].tolist()
        gaps = [0.03 * u if number % 2 else 0.08 + 0.2 * u for u in draws]
        yield Strung(tuple(takes[k] for k in chosen), tuple(gaps))
        number += 1


def spoken_digits(held_out: bool) -> list[Recording]:
    """The strings of all six people."""
    takes = [take for take in datasets.digits() if take.held_out == held_out]
    return [
        Recording(f"{speaker}_{number:03d}", speaker, string)
        for speaker in sorted({take.speaker for take in takes})
        for number, string in enumerate(strings([take for take in takes if take.speaker == speaker], seed=0))
    ]


# --- flite ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Levelled:
    """A source made as loud as the others."""

    source: Source

    def read(self) -> tuple[Wave, list[Aligned]]:
        wave, words = self.source.read()
        return Wave(levelled(mono(wave), wave.rate)[None], wave.rate), words


def flite_texts() -> list[tuple[str, str]]:
    """The name and the text of each thing that a voice of flite says: sentences, then strings of digits."""
    sentences = SENTENCES.read_text(encoding="utf-8").split("\n")
    found = [(f"s{k:03d}", text) for k, text in enumerate(filter(None, sentences))]
    draws = (10 * Noise(1, range(FLITE_STRINGS)).uniform(torch.empty(FLITE_STRINGS, 4))).long().tolist()
    for number, draw in enumerate(draws):
        words = [DIGITS[k] for k in draw[: LENGTHS[number % len(LENGTHS)]]]
        found.append((f"d{number:03d}", (" " if number % 2 else ", ").join(words)))
    return found


def spoken_texts(held_out: bool) -> list[Recording]:
    """What flite's voices say; nothing without flite."""
    if shutil.which("flite") is None:
        print("flite is not installed: training without its voices")
        return []
    return [
        Recording(f"{voice}_{name}", voice, Levelled(Flite(text, voice)))
        for voice in FLITE
        for name, text in flite_texts()
        if (int(name[1:]) % (15 if name[0] == "s" else 10) == 7) == held_out
    ]


# --- the data sets and how good the model is ------------------------------------------------------------------


def write_data(out: Path) -> None:
    """OUT/data and OUT/held_out; what is there already is left."""
    for name, held_out in (("data", False), ("held_out", True)):
        sources = [*spoken_digits(held_out), *spoken_texts(held_out)]
        with progress(f"preparing {name}") as report:
            found = prepare(sources, out / name, Settings(), report=report)
        print(f"{name}: {found.written} recordings new, {found.there} there, {len(found.refused)} refused")


def understood(model: AcousticModel) -> dict[str, Any]:
    """The share of digits that pocketsphinx recognises in held-out strings: as recorded, and as the model says them."""
    texts = dict(flite_texts())
    strings: list[tuple[str, Wave, str]] = []
    for one in spoken_digits(held_out=True):
        if isinstance(one.source, Strung):
            strings.append((one.voice, one.source.sound(), " ".join(one.source.words)))
    for one in spoken_texts(held_out=True):
        name = one.name.rpartition("_")[2]
        if name[0] == "d" and one.voice in model.config.voices:
            strings.append((one.voice, one.source.read()[0], texts[name].replace(",", "")))
    vocoder = vocoder_for(model)
    rows: dict[str, Any] = {}
    for title, flite in (("six people", False), ("flite's voices", True)):
        chosen = [row for row in strings if (row[0] in FLITE) == flite]
        if not chosen:
            continue
        begin = time.process_time()
        made = [
            render(model, from_text(text), vocoder, voice=voice, sample=number).wave
            for number, (voice, _, text) in enumerate(chosen)
        ]
        seconds = time.process_time() - begin
        truth = [text for _, _, text in chosen]
        rows[title] = {
            "strings": len(chosen),
            "recorded": round(digit_accuracy([wave for _, wave, _ in chosen], truth), 3),
            "synthesised": round(digit_accuracy(made, truth), 3),
            "cpu_seconds_for_one_second": round(seconds / sum(wave.duration for wave in made), 3),
        }
    return {"what": "share of digits recognised in held-out strings", **rows}


def run(arguments: argparse.Namespace) -> None:
    if not arguments.score:
        write_data(arguments.out)
    model = trained(arguments, *corpora(arguments.out))
    said = [f"speech made for this by flite's voices {', '.join(FLITE)} (free to use)"]
    finish(
        "speech",
        arguments,
        model,
        [
            "Free Spoken Digit Dataset, takes 5 to 49, joined to strings (CC BY-SA 4.0)",
            *(said if set(FLITE) & set(model.config.voices) else []),
        ],
        "CC BY-SA 4.0",
        understood,
    )


if __name__ == "__main__":
    run(parser(__doc__, auxiliary_steps=3000, steps=12_000).parse_args())
