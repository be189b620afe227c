r"""One More Step: a network for the first state, where the schedule does not end on pure noise.

The data are those of the claim on zero terminal SNR: D pixels share a brightness, here prompt + rest, of which the
prompt explains 90 % of the variance. Trained by its loss the network knows E[x0 | prompt], and no more: pure noise
says nothing about the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from degauss.core import DiscreteVP, Noise, sample
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import dpmpp
from degauss.core.gaussian.one_more_step import OneMoreStep, Started
from degauss.core.oracle import GaussianOracle
from degauss.core.schedule import quadratic_betas

from ._problem import DOUBLE, median, verdict

CLAIM = Claim(
    paper=(
        "Hu, Zheng, Zheng, Wang, Tao and Cham 2024, One More Step: A Versatile Plug-and-Play Module for Rectifying "
        "Diffusion Schedule Flaws and Enhancing Low-Frequency Controls (section 3)"
    ),
    statement=(
        "One evaluation of a further network that predicts v at pure noise gives the first state of training, and so "
        "the range of brightness that common schedules lose, without changing the model."
    ),
    expected=(
        "For the schedule of Stable Diffusion, 64 x 64 values, brightness of mean 0.5 and standard deviation 0.5: with "
        "the network that is best for its loss, (a) the mean is within 0.03 of the data's, told nothing; the standard "
        "deviation is 0.95 to 1.05 of the data's (b) with a prompt that explains 90 % of the variance, told to the "
        "model and to the network, and (c) without a prompt. Control: without the step less than 0.6 of the standard "
        "deviation is kept, with and without the prompt, and the mean is off by more than 0.1."
    ),
)

PIXELS, BRIGHTNESS, MEAN, EXPLAINED, COUNT = 64 * 64, 0.5, 0.5, 0.9, 4096
SCALE = math.sqrt(PIXELS)
SCHEDULE = DiscreteVP.from_betas(quadratic_betas(1000, 0.00085, 0.012))


def drawn(seed: int, known: Tensor, rest: float, network: OneMoreStep | None) -> Tensor:
    """Brightness of samples when the model knows a part of it: x0 = known + rest noise, along one axis."""
    solver = dpmpp(2) if network is None else partial(Started, start=network, solver=dpmpp(2))
    denoiser = GaussianOracle(SCHEDULE, mean=known * SCALE, std=rest * SCALE)
    x = sample(denoiser, SCHEDULE, (COUNT, 1), solver=solver, steps=200, seed=seed, dtype=DOUBLE)
    return x / SCALE


def told(known: Tensor) -> OneMoreStep:
    """The network that is best for its loss, given what is known."""
    return OneMoreStep(lambda z: -known * SCALE + 0 * z)


def transported(z: Tensor) -> Tensor:
    """The network that is best for pairs of data and noise by optimal transport."""
    alpha, sigma = (float(scale) for scale in SCHEDULE(torch.tensor(1.0)))
    spread = BRIGHTNESS * SCALE
    return -(MEAN * SCALE + (math.hypot(alpha * spread, sigma) - sigma) / alpha * z)


def run(seeds: Sequence[int]) -> Result:
    nothing = torch.full((COUNT, 1), MEAN, dtype=DOUBLE)
    rest = BRIGHTNESS * math.sqrt(1 - EXPLAINED)
    plain, repaired, prompted, prompted_plain, coupled = ([] for _ in range(5))
    for seed in seeds:
        wish = Noise(3000 + seed, range(COUNT)).normal(torch.empty(COUNT, 1, dtype=DOUBLE))
        prompt = MEAN + BRIGHTNESS * math.sqrt(EXPLAINED) * (wish - wish.mean()) / wish.std()
        plain.append(drawn(seed, nothing, BRIGHTNESS, None))
        repaired.append(drawn(seed, nothing, BRIGHTNESS, told(nothing)))
        prompted_plain.append(drawn(seed, prompt, rest, None))
        prompted.append(drawn(seed, prompt, rest, told(prompt)))
        coupled.append(drawn(seed, nothing, BRIGHTNESS, OneMoreStep(transported)))
    with_prompt, without = kept(prompted), kept(repaired)
    off, off_plain = means(repaired), means(plain)
    return Result(
        verdict(
            [median(off) <= 0.03, 0.95 <= median(with_prompt) <= 1.05, 0.95 <= median(without) <= 1.05],
            [median(kept(plain)) < 0.6, median(kept(prompted_plain)) < 0.6, median(off_plain) > 0.1],
        ),
        {
            "mean of the brightness, error, one more step told nothing": off,
            "mean of the brightness, error, without the step (control)": off_plain,
            "brightness kept, one more step and a prompt": with_prompt,
            "brightness kept, a prompt, without the step (control)": kept(prompted_plain),
            "brightness kept, one more step told nothing": without,
            "brightness kept, without prompt and step (control)": kept(plain),
            "brightness kept, one more step trained on pairs by transport": kept(coupled),
        },
        notes=(
            "The networks are closed forms. The last figure, not judged, is for pairs of data and noise coupled by "
            "optimal transport, which the paper does not train on: there the noise tells the brightness."
        ),
    )


def kept(samples: Sequence[Tensor]) -> list[float]:
    return [float(x.std()) / BRIGHTNESS for x in samples]


def means(samples: Sequence[Tensor]) -> list[float]:
    return [abs(float(x.mean()) - MEAN) for x in samples]
