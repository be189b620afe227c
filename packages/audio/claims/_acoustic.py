"""What the claims on acoustic models share: a voice that can be had in any amount, small models of it, and measures.

The voice says three to six vowels, with pauses, on a gliding pitch. Phones, durations and f0 are known exactly; what no
model can foresee is how the formants wander within a vowel (10 % to either side, a few times a second) and the breath
in between, 20 dB below. A decoder trained by the absolute error must blur these. 8 kHz, 40 mels, a frame every 16 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.audio.acoustic import AcousticConfig, AcousticModel
from degauss.audio.acoustic_data import Corpus, Item, collate
from degauss.audio.acoustic_training import Recipe, fit
from degauss.audio.boundary import Boundary
from degauss.audio.boundary_fitting import RECORD, Sweeping, fit_boundary, load_boundary, save_boundary
from degauss.audio.boundary_net import recipe
from degauss.audio.framing import Sung
from degauss.audio.metrics import delta_variance_ratio, mel_cepstral_distance
from degauss.audio.spectra import MelConfig, log_mel
from degauss.audio.synthetic import VOWELS, vowel, white
from degauss.core.gaussian import ddim
from degauss.core.noise import Noise

RATE, HOP = 8000, 128
MEL = MelConfig(RATE, 512, HOP, 40, 0.0, 4000.0)
PAUSE = "SP"
TRAINING, TESTED, VALIDATION = 400, 24, 24
AUXILIARY_STEPS, STEPS, CLASSIFIER_STEPS = 1500, 3000, 1500
CONFIG = AcousticConfig(
    tuple(sorted((*VOWELS, PAUSE))), mel=MEL, hidden=64, blocks=2, channels=64, layers=10, dropout=0.05
)

_BREATH, _WANDER = 0.1, 0.1


# --- the voice ----------------------------------------------------------------------------------------------


def corpus(seed: int, purpose: int, count: int) -> Corpus:
    """So many utterances; ``purpose`` 0 is training, 1 validation, 2 test."""
    items = tuple(utterance(seed * 10_000_000 + purpose * 1_000_000 + number) for number in range(count))
    return Corpus(items, MEL, f"formants-{seed}-{purpose}-{count}")


def utterance(number: int) -> Item:
    """Vowels and pauses, keyed by a number."""
    draws = Noise(number, [0]).uniform(torch.empty(1, 4, 8))[0].double()
    count = 3 + int(draws[0, 0] * 4)
    names = [PAUSE if draws[1, k] < 0.15 else sorted(VOWELS)[int(draws[2, k] * len(VOWELS))] for k in range(count)]
    durations = 6 + (draws[3, :count] * 10).long()
    frames = int(durations.sum())
    samples = frames * HOP
    place = torch.linspace(0, 1, samples, dtype=torch.float64)
    f0 = 100 * 2 ** (draws[0, 1] + (draws[0, 2] - 0.5) * place)
    said = torch.tensor([name != PAUSE for name in names]).repeat_interleave(durations * HOP)
    centres = torch.tensor([VOWELS.get(name, VOWELS["a"]) for name in names], dtype=torch.float64)
    formants = _smooth(centres.repeat_interleave(durations * HOP, 0).T) * (1 + _WANDER * _wander(number, samples))
    voice = vowel(formants, f0.float(), RATE) * _smooth(said.double()[None])[0]
    sound = 0.1 * (voice + _BREATH * white(samples, number)).float()
    mel = log_mel(sound, MEL)[:, :frames]
    at_frames = torch.arange(frames) * HOP
    nothing = torch.zeros(count)
    return Item(
        str(number),
        "voice",
        tuple(names),
        durations,
        Sung(nothing, nothing, nothing.long()),
        torch.zeros(frames),
        torch.where(said, f0, 0.0)[at_frames].float(),
        mel,
    )


def _wander(number: int, samples: int) -> Tensor:
    """Three smooth curves of unit size that change about eight times a second, ``[3, samples]``."""
    knots = Noise(number, [0]).normal(torch.empty(1, 3, 2 + samples * 8 // RATE), draw=1).double()
    curves = torch.nn.functional.interpolate(knots, samples, mode="linear", align_corners=True)[0]
    return curves.clamp(-2, 2)


def _smooth(x: Tensor) -> Tensor:
    """Steps ``[rows, samples]`` as slopes of about 25 ms."""
    width = RATE // 40
    padded = torch.nn.functional.pad(x[None], (width // 2, width - 1 - width // 2), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, width, 1)[0]


# --- models -------------------------------------------------------------------------------------------------


def run_folder(seed: int) -> Path:
    """Where the models of a seed are kept."""
    return Path(f"out/claims/acoustic-{STEPS}-{seed}")


def trained(seed: int) -> AcousticModel:
    """The acoustic model of a seed, or what an earlier claim left of it."""
    out = run_folder(seed)
    if (out / "model").exists():
        return AcousticModel.load(out / "model")
    settings = Recipe(
        out, AUXILIARY_STEPS, STEPS, batch=16, lr=2e-3, seed=seed, evaluate_every=0, save_every=500, device="cpu"
    )
    return fit(CONFIG, corpus(seed, 0, TRAINING), corpus(seed, 1, VALIDATION), settings)


def bounded(seed: int, model: AcousticModel) -> Boundary:
    """The boundary of that model, fitted on training and asked of validation utterances; kept in its checkpoint."""
    path = run_folder(seed) / "model"
    if not (path / RECORD).exists():
        settings = recipe(run_folder(seed) / "classifier", steps=CLASSIFIER_STEPS, seed=seed)
        sweeping = Sweeping(every=5, utterances=VALIDATION, draws=4, evaluations=100, solver=ddim(eta=1.0))
        seen, held_out = corpus(seed, 0, TRAINING), corpus(seed, 1, VALIDATION)
        save_boundary(path, fit_boundary(model, seen, held_out, settings, sweeping))
    return load_boundary(path).boundary


# --- measures -----------------------------------------------------------------------------------------------


ORTHONORMAL = (MEL.n_mels / 2) ** 0.5
"""Mel-cepstral distances of an orthonormal cosine transform, as published code takes them, over those of a series."""


class Measured(NamedTuple):
    """Means over the test utterances: mel-cepstral distance in (orthonormal) dB, and the ratio of delta variances."""

    distance: float
    liveliness: float


def measured(model: AcousticModel, items: Sequence[Item], mels: Callable[[Tensor, int], Tensor]) -> Measured:
    """Score what ``mels(condition [1, hidden, n], number of the utterance)`` makes, ``[1, mels, n]`` in model units."""
    distances: list[float] = []
    ratios: list[float] = []
    with torch.no_grad():
        for number, item in enumerate(items):
            made = model.network.scale.inverse(mels(model.condition(collate([item], model.config)), number)[0])
            distances.append(mel_cepstral_distance(item.mel, made))
            ratios.append(delta_variance_ratio(item.mel, made))
    return Measured(ORTHONORMAL * fmean(distances), fmean(ratios))
