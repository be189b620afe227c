"""What the claims about enhancement share: small models of spoken digits in noise, and how they are judged.

A seed is a fold: two of the six speakers, and the noises of the test, are heard nowhere else. Networks have 0.3 million
weights and some minutes of one core (the papers': 27.8 and 65.6 million, days on GPUs). Compute is matched: SGMSE+ has
as many passes through a network as StoRM has in both of its stages. Settings of the samplers are chosen on validation
mixtures of the training speakers, never on the test.
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
from degauss.audio.enhancement import Enhancer, EnhancerConfig, Sampling, enhance, spectrum_for
from degauss.audio.enhancement_training import fit, recipe
from degauss.audio.metrics import si_sdr
from degauss.audio.mixtures import RATE, Splits, digit_splits
from degauss.audio.ncsnpp import NCSNppConfig
from degauss.audio.speech_metrics import dnsmos, estoi, pesq_narrowband
from degauss.audio.waves import Wave, mono, read, resample

FIRST, JOINT, BATCH, SECONDS, LR = 700, 400, 4, 1.5, 2e-3
PASSES = FIRST + 2 * JOINT
NET = NCSNppConfig(channels=8, multipliers=(1, 2, 4, 4), attention=False)
CONFIG = EnhancerConfig(rate=RATE, spectrum=spectrum_for(RATE), predictive=NET, score=NET)
RATIOS = (0.0, 5.0, 10.0)  # dB
TESTED, CHOSEN = 8, 4  # mixtures at each ratio, of the test and of validation


class Scores(NamedTuple):
    """Means over sounds: PESQ-NB, ESTOI, SI-SDR (dB), and what DNSMOS says of the speech (SIG)."""

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


def judged(sounds: Sounds, system: System) -> Scores:
    """The scores of a system."""
    rows: list[Scores] = []
    for number, (clean, noisy) in enumerate(zip(sounds.clean, sounds.noisy, strict=True)):
        made = system(noisy, number)
        truth, found = (Wave(sound[None].float(), RATE) for sound in (clean, made))
        ratio = float(si_sdr(clean.double(), made.double()))
        rows.append(Scores(pesq_narrowband(truth, found), estoi(truth, found), ratio, dnsmos(found).signal))
    return Scores(*(fmean(column) for column in zip(*rows, strict=True)))


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
        scores = judged(sounds, by(model, sampling))
        return scores.pesq / 0.35 + scores.estoi / 0.10 + scores.si_sdr / 6

    keyed = {name: replace(sampling, seed=seed) for name, sampling in candidates.items()}
    best = max(keyed, key=lambda name: merit(keyed[name]))
    return best, keyed[best]


def storm_models(splits: Splits, seed: int) -> tuple[Enhancer, Enhancer]:
    """StoRM of a seed, and the predictive model of its first stage."""
    out = _folder(CONFIG, JOINT, seed)
    model = Enhancer.load(out / "model") if (out / "model").exists() else _trained(CONFIG, JOINT, out, splits, seed)
    return model, Enhancer.load(out / "predictive" / "model")


def sgmse_model(splits: Splits, seed: int) -> Enhancer:
    """SGMSE+ of a seed, with the compute of StoRM's two stages."""
    config = replace(CONFIG, predictive=None)
    out = _folder(config, PASSES, seed)
    return Enhancer.load(out / "model") if (out / "model").exists() else _trained(config, PASSES, out, splits, seed)


def _folder(config: EnhancerConfig, steps: int, seed: int) -> Path:
    """Where a training lies, named by all that it follows from."""
    about = json.dumps([asdict(config), steps, FIRST, BATCH, SECONDS, LR, seed], sort_keys=True)
    return Path(f"out/claims/enhancer-{config.method}-{hashlib.sha256(about.encode()).hexdigest()[:10]}")


def _trained(config: EnhancerConfig, steps: int, out: Path, splits: Splits, seed: int) -> Enhancer:
    data = splits.train.mixtures(RATE, seed, SECONDS)
    settings = recipe(out, steps=steps, batch=BATCH, lr=LR, seed=seed, device="cpu")
    return fit(config, data, settings, first_steps=FIRST)


def splits_of(seed: int) -> Splits:
    """The fold of a seed."""
    return digit_splits(seed % 3)


def tabulated(found: Mapping[str, Sequence[Scores]], where: str) -> dict[str, list[float]]:
    """Figures of each system for each seed."""
    units = {"pesq": "PESQ-NB", "estoi": "ESTOI", "si_sdr": "SI-SDR (dB)", "sig": "DNSMOS-SIG"}
    return {
        f"{where}, {units[name]}, {system}": [float(getattr(scores, name)) for scores in rows]
        for system, rows in found.items()
        for name in Scores._fields
    }
