"""Train the vocoder that the package ships: 16 kHz, 80 mel bands.

    python packages/audio/examples/train_shipped_vocoder.py OUT [--steps N] [--batch N] [--words N] [--device auto|cpu]

Interrupt it and run it again: it goes on where it stopped. The defaults take about an hour on one CPU core.
``OUT/model`` is the vocoder, with its ``card.json`` beside it; with ``--score`` an existing one is only measured.

It learns from the Free Spoken Digit Dataset (8 kHz, resampled; and half of the takes played at twice the speed, as
the only real voices here that reach 8 kHz), the Erithacus voicebank at five pitches (WORLD), and random words spoken
by flite's voices where flite is installed. It is measured on people it never heard: two of CMU ARCTIC and one of
VoiceBank, by the extra `metrics`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyworld
import torch
from pocketsphinx import get_model_path
from torch import Tensor

from degauss.audio import datasets, pitch, waves
from degauss.audio.source_filter import SourceFilter, SourceFilterConfig
from degauss.audio.spectra import MelConfig, log_mel
from degauss.audio.vocoder_training import Recording, fit, recipe, recording
from degauss.audio.vocoders import SHIPPED, GriffinLim, Neural, Vocoder, World, copy_errors
from degauss.core.shipping import made_by, parser, settings_of, ship
from degauss.core.train import Shuffle

CONFIG = SourceFilterConfig()
RATE, CROP = CONFIG.mel.rate, 64
VOICES = ("awb", "rms", "slt", "kal16")
SEMITONES = (-12, -6, 6, 12)


# --- what it learns from --------------------------------------------------------------------------------------


def spoken_digits() -> Iterator[Tensor]:
    """The training takes, six in a row of one person; odd takes as if they had been recorded at 16 kHz."""
    takes = [one for one in datasets.digits() if not one.held_out]
    for speaker in sorted({one.speaker for one in takes}):
        for odd in (0, 1):
            own = [one for one in takes if one.speaker == speaker and one.take % 2 == odd]
            order = Shuffle(len(own))(range(len(own)))
            for first in range(0, len(own), 6):
                read = (waves.read(own[k].path) for k in order[first : first + 6])
                heard = [waves.Wave(wave.samples, RATE) if odd else waves.resample(wave, RATE) for wave in read]
                yield torch.cat([waves.mono(wave) for wave in heard])


def sung_syllables() -> Iterator[Tensor]:
    """Each syllable of the voicebank as it is, and at other pitches with the same formants."""
    for syllable in datasets.voicebank():
        x = waves.mono(waves.resample(waves.read(syllable.path), RATE))
        yield x
        f0 = pitch.f0(x, RATE, 80).double().numpy()
        samples, times = x.double().numpy(), np.arange(len(f0)) * 80 / RATE
        power = pyworld.cheaptrick(samples, f0, times, RATE)
        aperiodicity = pyworld.d4c(samples, f0, times, RATE)
        for semitones in SEMITONES:
            shifted = np.ascontiguousarray(f0 * 2 ** (semitones / 12))
            yield torch.from_numpy(pyworld.synthesize(shifted, power, aperiodicity, RATE, 5.0)).float()


def spoken_words(count: int) -> Iterator[Tensor]:
    """``count`` rows of six random words of the dictionary for each of flite's voices; nothing without flite."""
    flite = shutil.which("flite")
    if flite is None:
        print("flite is not installed: training without its voices")
        return
    lines = Path(get_model_path(), "en-us", "cmudict-en-us.dict").read_text(encoding="utf-8").splitlines()
    words = [word for word in (line.partition(" ")[0] for line in lines) if word.isalpha() and len(word) > 2]
    order = Shuffle(len(words))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "said.wav")
        for number in range(count * len(VOICES)):
            text = " ".join(words[k] for k in order(range(6 * number, 6 * number + 6)))
            subprocess.run([flite, "-voice", VOICES[number % len(VOICES)], "-t", text, "-o", out], check=True)
            yield waves.mono(waves.resample(waves.read(out), RATE))


def recordings(words: int) -> list[Recording]:
    """All that the vocoder learns from, about 45 minutes."""
    sources = (spoken_digits(), sung_syllables(), spoken_words(words))
    made = [recording(x, CONFIG.mel, CROP) for source in sources for x in source]
    print(f"{len(made)} recordings, {sum(len(one.wave) for one in made) / RATE / 60:.0f} minutes")
    return made


# --- how good it is -------------------------------------------------------------------------------------------


def held_out() -> dict[str, list[Path]]:
    arctic = [path for name, path in datasets.samples().items() if name.startswith("cmu_arctic")]
    return {"CMU ARCTIC, 2 speakers": arctic, "VoiceBank p287": [pair.clean for pair in datasets.noisy_pairs()]}


def scores(vocoder: Vocoder, paths: list[Path]) -> dict[str, float]:
    """Means over files of PESQ (wide band) and of what `copy_errors` measures."""
    from pesq import pesq  # pyright: ignore[reportMissingImports]

    found: list[tuple[float, ...]] = []
    for path in paths:
        x = waves.mono(waves.resample(waves.read(path), RATE))
        x = x[: len(x) // CONFIG.mel.hop * CONFIG.mel.hop]
        mel, f0 = log_mel(x, CONFIG.mel), pitch.f0(x, RATE, CONFIG.mel.hop)
        y = vocoder(mel, f0)
        found.append((float(pesq(RATE, x.numpy(), y.numpy(), "wb")), *copy_errors(mel, f0, y, CONFIG.mel)))
    names = ("pesq_wb", "log_mel_distance", "f0_cents_median", "voicing_error")
    return dict(zip(names, (round(float(mean), 3) for mean in np.mean(found, axis=0)), strict=True))


def card(model: SourceFilter, arguments: argparse.Namespace) -> dict[str, Any]:
    with_flite = shutil.which("flite") is not None
    vocoders: dict[str, Vocoder] = {
        "neural": Neural(model),
        "Griffin-Lim, 32 iterations": GriffinLim(CONFIG.mel),
        "WORLD from mel": World(CONFIG.mel),
    }
    return {
        **made_by(
            "vocoder", "packages/audio/examples/train_shipped_vocoder.py", arguments, f"--words {arguments.words}"
        ),
        "trained_on": [
            "Free Spoken Digit Dataset, takes 5 to 49, half of them at double speed (CC BY-SA 4.0)",
            "Erithacus voicebank, by Erithacus, as recorded and shifted by WORLD (CC BY 4.0)",
            *(
                ["speech made for this by flite's voices awb, rms, slt and kal16 (CMU's permissive licence)"]
                if with_flite
                else []
            ),
        ],
        "licence": "CC BY-SA 4.0",
        "mel": asdict(MelConfig()),
        "parameters": sum(weight.numel() for weight in model.network.parameters()),
        "metrics": {
            "what": "copy synthesis of recordings of people that were not trained on; means over files",
            **{
                name: {what: scores(vocoder, paths) for what, vocoder in vocoders.items()}
                for name, paths in held_out().items()
            },
        },
    }


def main() -> None:
    options = parser(__doc__, steps=12000, batch=8, lr=2e-3)
    options.add_argument("--words", type=int, default=60, help="rows of six words for each of flite's voices")
    arguments = options.parse_args()
    if arguments.score:
        model = SourceFilter.load(arguments.out / "model")
    else:
        settings = recipe(arguments.out, **settings_of(arguments))
        model = fit(CONFIG, recordings(arguments.words), settings, CROP)
    ship(arguments, card(model, arguments), SHIPPED)


if __name__ == "__main__":
    main()
