r"""What a prior of slices is worth: how well it denoises, beside simple filters, and whether it only repeats.

**Denoising.** Root mean square error of the posterior mean of slices with noise of standard deviation sigma, in prior
units. Beside it, on the same slices and the same noise: the best Gaussian low-pass filter, whose width is chosen on
these very slices, and the best linear filter there is (Wiener 1949), which is told their own power spectrum S,

    x_hat = m + ifft(S / (S + sigma^2) fft(y - m)).

**Memory.** The distance (root mean square difference, flips left to right allowed) of a sample to the nearest of many
training slices, beside that of slices which were never trained on. Samples that are much nearer are copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from degauss.core.gaussian import dpmpp
from degauss.core.grid import karras
from degauss.core.noise import Noise
from degauss.core.sampling import sample
from degauss.core.schedule import EDM
from degauss.medical.prior import SlicePrior
from degauss.medical.slices import Slices

LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_WIDTHS = tuple(0.25 * 1.3**k for k in range(20))  # pixels, standard deviations of the low-pass filters
_AT_ONCE = 16
_TRAINING = 1024  # training slices that samples are compared with


@dataclass(frozen=True)
class Denoising:
    """Root mean square errors at one noise level, all in prior units."""

    sigma: float
    prior: float
    wiener: float
    gaussian: float


def denoising(
    prior: SlicePrior, slices: Tensor, levels: Sequence[float] = LEVELS, seed: int = 0
) -> tuple[Denoising, ...]:
    """The errors on clean ``slices [n, 1, rows, columns]`` at each level."""
    found: list[Denoising] = []
    for k, sigma in enumerate(levels):
        noisy = slices + sigma * Noise(seed, range(len(slices))).normal(slices, draw=k)
        guesses = _posterior_mean(prior, noisy, sigma), wiener(noisy, slices, sigma), low_pass(noisy, slices)
        found.append(Denoising(sigma, *(_rms(guess - slices) for guess in guesses)))
    return tuple(found)


def wiener(noisy: Tensor, clean: Tensor, sigma: float) -> Tensor:
    """The best linear filter of all, told the power spectrum and the mean of ``clean``."""
    mean = clean.mean()
    power = torch.fft.fft2(clean - mean).abs().square().mean((0, 1)) / clean[0, 0].numel()
    gain = power / (power + sigma**2)
    return mean + torch.fft.ifft2(gain * torch.fft.fft2(noisy - mean)).real


def low_pass(noisy: Tensor, clean: Tensor) -> Tensor:
    """The Gaussian filter, or none, that comes nearest to ``clean``."""
    return min([noisy, *(blurred(noisy, width) for width in _WIDTHS)], key=lambda guess: _rms(guess - clean))


def blurred(x: Tensor, width: float) -> Tensor:
    """``x [n, 1, rows, columns]`` through a Gaussian of a standard deviation in pixels, circular."""
    frequency = [torch.fft.fftfreq(n, dtype=torch.float64) for n in x.shape[-2:]]
    square = frequency[0][:, None] ** 2 + frequency[1] ** 2
    gain = torch.exp(-2 * (math.pi * width) ** 2 * square).to(x)
    return torch.fft.ifft2(gain * torch.fft.fft2(x)).real


def drawn(prior: SlicePrior, count: int, size: int, *, steps: int = 30, seed: int = 0) -> Tensor:
    """Samples of the prior ``[count, 1, size, size]``: DPM-Solver++(2M) on EDM's noise levels."""
    # Above two hundred times the data, noise says nothing.
    highest = 200 * prior.config.sigma_data
    schedule = EDM(highest)
    grid = partial(karras, sigma_max=highest)
    parts = [range(first, min(first + _AT_ONCE, count)) for first in range(0, count, _AT_ONCE)]
    with torch.inference_mode():
        return torch.cat(
            [
                sample(
                    prior.denoiser(schedule),
                    schedule,
                    (len(part), 1, size, size),
                    solver=dpmpp(order=2),
                    steps=steps,
                    grid=grid,
                    seed=seed,
                    samples=part,
                    device=prior.device,
                ).cpu()
                for part in parts
            ]
        )


def nearest(slices: Tensor, training: Tensor) -> Tensor:
    """The distance of each of ``slices [n, 1, s, s]`` to the nearest of ``training [m, 1, s, s]``, ``[n]``.

    Both are seen at a quarter of their resolution, at which a small shift is no difference.
    """
    a, b = (F.avg_pool2d(x, 4).flatten(1).double() for x in (slices, training))
    flipped = F.avg_pool2d(training.flip(-1), 4).flatten(1).double()
    distance = torch.cdist(a, torch.cat([b, flipped]))
    return distance.amin(1) / math.sqrt(a.shape[1])


def metrics(prior: SlicePrior, training: Slices, held_out: Slices, *, count: int = 48) -> dict[str, Any]:
    """What a card says of a prior: errors and distances on ``count`` held-out slices of each size."""
    return {
        "what": "root mean square errors in prior units on slices that were not trained on, beside a Wiener filter "
        "told their spectrum and the best Gaussian; distances at a quarter of the resolution",
        "by_size": [_at_size(prior, training, held_out, size, count) for size in training.cuts.sizes],
    }


def _at_size(prior: SlicePrior, training: Slices, held_out: Slices, size: int, count: int) -> dict[str, Any]:
    seen, unseen = training.stack(range(_TRAINING), size), held_out.stack(range(count), size)
    samples = drawn(prior, count, size)
    distances = {"samples": nearest(samples, seen), "held_out": nearest(unseen, seen)}
    groups = {"samples": samples, "held_out": unseen, "training": seen}
    return {
        "size": size,
        "held_out_slices": count,
        "denoising": [{k: round(v, 5) for k, v in asdict(row).items()} for row in denoising(prior, unseen)],
        "distance_to_nearest_training_slice": {
            "training_slices": _TRAINING,
            **{f"{name}_median": round(float(values.median()), 4) for name, values in distances.items()},
            **{f"{name}_smallest": round(float(values.min()), 4) for name, values in distances.items()},
        },
        "mean_and_deviation": {
            name: [round(float(values.mean()), 4), round(float(values.std()), 4)] for name, values in groups.items()
        },
    }


def _posterior_mean(prior: SlicePrior, noisy: Tensor, sigma: float) -> Tensor:
    schedule = EDM(max(80.0, sigma))
    t = torch.tensor(sigma / schedule.sigma_max, dtype=torch.float64)
    denoiser = prior.denoiser(schedule)
    with torch.inference_mode():
        return torch.cat([denoiser(part.to(prior.device), t).mean.cpu() for part in noisy.split(_AT_ONCE)])


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())
