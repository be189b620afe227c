"""What the claims about enhancement share: small models of spoken digits in noise, and how they are judged.

A seed is a fold: two of the six speakers, and the noises of the test, are heard nowhere else. Networks have half a
million weights and some minutes of one core (the papers': 27.8 and 65.6 million, days on GPUs); the predictive one is
a recurrent mask, which in such a time learns more than NCSN++. Compute is matched: the training of SGMSE+ takes as long
as both stages of StoRM. Settings of the samplers are chosen on validation mixtures of the training speakers, never on
the test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from degauss.audio import datasets
from degauss.audio.enhancement import Enhancer, EnhancerConfig, Pairs, Sampling, enhance
from degauss.audio.enhancement_training import fit, recipe
from degauss.audio.masker import MASK_LOSS, MaskerConfig
from degauss.audio.metrics import si_sdr
from degauss.audio.mixtures import RATE, Splits, digit_splits
from degauss.audio.spectra import Compressed
from degauss.audio.speech_metrics import dnsmos, estoi, pesq_narrowband
from degauss.audio.waves import Wave, mono, read, resample
from degauss.core.nets.ncsnpp import NCSNppConfig
from degauss.core.train import Data

FIRST, JOINT, BATCH, SECONDS, LR = 1500, 300, 8, 1.5, 2e-3
# A step of the mask takes 0.18 s of one core, of both networks 0.58 s, of SGMSE+ 0.36 s.
SGMSE_STEPS = 1230
# The papers' frames overlap by three quarters; by half, there are twice as many steps in the same time.
CONFIG = EnhancerConfig(
    rate=RATE,
    spectrum=Compressed(n_fft=254, hop=127),
    predictive=MaskerConfig(128),
    score=NCSNppConfig(channels=16, multipliers=(1, 2, 4), attention=False, patch=2),
    by_magnitude=MASK_LOSS,
)
RATIOS = (0.0, 5.0, 10.0)  # dB
TESTED, CHOSEN = 6, 3  # mixtures at each ratio, of the test and of validation


class Compared(NamedTuple):
    """Means over sounds: PESQ-NB, ESTOI and SI-SDR (dB)."""

    pesq: float
    estoi: float
    si_sdr: float


class Scores(NamedTuple):
    """The same, and what DNSMOS says of the speech (SIG), which takes longer than all the rest."""

    pesq: float
    estoi: float
    si_sdr: float
    sig: float


class Sounds(NamedTuple):
    """Clean and noisy sounds at 8 kHz, each ``[n]``."""

    clean: list[Tensor]
    noisy: list[Tensor]


System = Callable[[Tensor, int], Tensor]
"""(a noisy sound ``[n]``, its number) -> a clean one."""


def mixed(splits: Splits, part: str, seed: int, count: int) -> Sounds:
    """Four-digit strings in noise at each ratio."""
    base = getattr(splits, part).mixtures(RATE, 1000 + seed, seconds=2.2, tilt=0.0)
    pairs = [base.at(ratio).pair(number) for ratio in RATIOS for number in range(count)]
    return Sounds([clean for clean, _ in pairs], [noisy for _, noisy in pairs])


def real_pairs() -> Sounds:
    """The six sentences of VoiceBank-DEMAND, at 8 kHz."""

    def heard(path: Path) -> Tensor:
        return mono(resample(read(path), RATE))

    pairs = datasets.noisy_pairs()
    return Sounds([heard(pair.clean) for pair in pairs], [heard(pair.noisy) for pair in pairs])


def made(sounds: Sounds, system: System) -> list[Tensor]:
    """What a system makes of noisy sounds."""
    return [system(noisy, number) for number, noisy in enumerate(sounds.noisy)]


def compared(clean: Sequence[Tensor], found: Sequence[Tensor]) -> Compared:
    """The scores of what was found, by what is true."""
    rows: list[Compared] = []
    for one, other in zip(clean, found, strict=True):
        truth, heard = (_wave(sound) for sound in (one, other))
        ratio = float(si_sdr(one.double(), other.double()))
        rows.append(Compared(pesq_narrowband(truth, heard), estoi(truth, heard), ratio))
    return Compared(*(fmean(column) for column in zip(*rows, strict=True)))


def judged(sounds: Sounds, system: System) -> Scores:
    """The scores of a system, DNSMOS's too."""
    found = made(sounds, system)
    return Scores(*compared(sounds.clean, found), fmean(dnsmos(_wave(sound)).signal for sound in found))


def _wave(sound: Tensor) -> Wave:
    return Wave(sound[None].float(), RATE)


def nothing(noisy: Tensor, number: int) -> Tensor:
    """Leaves a sound as it is."""
    del number
    return noisy


def gating(noisy: Tensor, number: int) -> Tensor:
    """Spectral gating, as everybody has it at hand (noisereduce with its own settings)."""
    import noisereduce  # pyright: ignore[reportMissingImports]  # a peer, of the workspace's group "bench"

    del number
    reduced = noisereduce.reduce_noise(y=noisy.numpy(), sr=RATE)
    return torch.from_numpy(np.asarray(reduced, np.float32))


def by(model: Enhancer, sampling: Sampling) -> System:
    """A model with its sampler."""
    return lambda noisy, number: enhance(noisy, model, sampling, number)


def chosen(model: Enhancer, candidates: Mapping[str, Sampling], sounds: Sounds, seed: int) -> tuple[str, Sampling]:
    """The candidate that is best on validation sounds, each score in the units that the claims ask for."""

    def merit(sampling: Sampling) -> float:
        scores = compared(sounds.clean, made(sounds, by(model, sampling)))
        return scores.pesq / 0.35 + scores.estoi / 0.10 + scores.si_sdr / 6

    keyed = {name: replace(sampling, seed=seed) for name, sampling in candidates.items()}
    best = max(keyed, key=lambda name: merit(keyed[name]))
    return best, keyed[best]


class Task(NamedTuple):
    """What is learnt: ``name`` it, with the training pairs of a seed."""

    name: str
    data: Data[Pairs]


def denoising(splits: Splits, seed: int) -> Task:
    """Speech from its mixtures with noise."""
    return Task("noise", splits.train.mixtures(RATE, seed, SECONDS))


def storm_models(task: Task, seed: int) -> tuple[Enhancer, Enhancer]:
    """StoRM of a seed, and the predictive model of its first stage."""
    out, model = _model(CONFIG, JOINT, task, seed)
    return model, Enhancer.load(out / "predictive" / "model")


def sgmse_model(task: Task, seed: int) -> Enhancer:
    """SGMSE+ of a seed, with the compute of StoRM's two stages."""
    return _model(replace(CONFIG, predictive=None), SGMSE_STEPS, task, seed)[1]


def _model(config: EnhancerConfig, steps: int, task: Task, seed: int) -> tuple[Path, Enhancer]:
    """The model of a training, done unless it was, and where it lies: named by all that it follows from."""
    about = json.dumps([task.name, asdict(config), steps, FIRST, BATCH, SECONDS, LR, seed], sort_keys=True)
    out = Path(f"out/claims/enhancer-{config.method}-{hashlib.sha256(about.encode()).hexdigest()[:10]}")
    if (out / "model").exists():
        return out, Enhancer.load(out / "model")
    settings = recipe(out, steps=steps, batch=BATCH, lr=LR, seed=seed, device="cpu")
    return out, fit(config, task.data, settings, first_steps=FIRST)


def splits_of(seed: int) -> Splits:
    """The fold of a seed."""
    return digit_splits(seed % 3)


def tabulated(
    found: Mapping[str, Sequence[Compared]] | Mapping[str, Sequence[Scores]], where: str
) -> dict[str, list[float]]:
    """Figures of each system for each seed."""
    units = {"pesq": "PESQ-NB", "estoi": "ESTOI", "si_sdr": "SI-SDR (dB)", "sig": "DNSMOS-SIG"}
    return {
        f"{where}, {units[name]}, {system}": [float(getattr(scores, name)) for scores in rows]
        for system, rows in found.items()
        for name in rows[0]._fields
    }
