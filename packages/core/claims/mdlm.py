"""Masked diffusion as a likelihood model: continuous time bounds best, and what is trained on matters less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from degauss.core import Noise
from degauss.core.claims import Claim, Result
from degauss.core.jump import (
    Cosine,
    Subs,
    any_order,
    bits_per_token,
    elbo,
    exact_bound,
    exact_discrete_bound,
    exact_log_likelihood,
    independent,
    lambda_dce,
    weyl,
)
from degauss.core.jump.absorbing import Absorbing

from ._jump import BASES, DOUBLE, PROCESS, Dense, Source, made
from ._problem import verdict

CLAIM = Claim(
    paper=(
        "Sahoo et al. 2024, Simple and Effective Masked Diffusion Language Models; Ou et al. "
        "2024, Your Absorbing Discrete Diffusion Secretly Models the Conditional Distributions of Clean Data "
        "(on equal losses)"
    ),
    statement=(
        "The evidence bound of masked diffusion is tighter the more steps it has and tightest in continuous time, "
        "where it is a weighted masked-language loss that depends on no noise schedule; low-discrepancy times lower "
        "its variance. (RADD:) its forms, in time, in the share of masks and in the order, train alike."
    ),
    expected=(
        "On sequences of 10 bases from a known Markov source, for every seed: (a) the exact bounds with 1, 4, 16, 64 "
        "and 128 steps fall, and the distance to the continuous bound halves from 64 to 128 within 5 %; (b) the "
        "continuous bound of a briefly trained network is within 0.03 bits a base of the source's own code length; "
        "(c) networks trained by the three losses, and by the bound on a cosine schedule, end within 0.01 bits of "
        "each other; (d) low-discrepancy times make the loss of a batch vary less. Control: training at one share of "
        "masks, 15 %, must cost 0.05 bits or more."
    ),
)

LENGTH, STEPS, BATCH = 10, 2000, 128
TEST = 200
GRIDS = (1, 4, 16, 64, 128)

Loss = Callable[[Subs, Tensor, Noise], Tensor]


def run(seeds: Sequence[int]) -> Result:
    found = [one(seed) for seed in seeds]
    figures = {name: [values[name] for values in found] for name in found[0]}
    ladder = [figures[f"bits a base above the source, {steps} steps"] for steps in GRIDS]
    continuous = figures["bits a base above the source, continuous"]
    ratios = [(a - c) / (b - c) for a, b, c in zip(ladder[-2], ladder[-1], continuous, strict=True)]
    others = [figures[f"bits a base above the source, {name}"] for name in ("lambda-DCE", "any-order", "cosine")]
    spread = [max(values) - min(values) for values in zip(continuous, *others, strict=True)]
    control = figures["bits a base above the source, 15 % masked (control)"]
    return Result(
        verdict(
            [
                all(a > b for more, less in pairwise([*ladder, continuous]) for a, b in zip(more, less, strict=True)),
                all(abs(ratio - 2) <= 0.1 for ratio in ratios),
                all(value <= 0.03 for value in continuous),
                all(value <= 0.01 for value in spread),
                all(value < 1 for value in figures["spread of the loss, low-discrepancy / independent times"]),
            ],
            [all(a - b >= 0.05 for a, b in zip(control, continuous, strict=True))],
        ),
        figures,
        notes=(
            f"Each network has {STEPS} steps of {BATCH} fresh sequences. Bounds are exact, by enumeration of all 1024 "
            f"sets of masks, over {TEST} new sequences; the model's own likelihood is the exact mean over all orders."
        ),
    )


def one(seed: int) -> dict[str, float]:
    """All figures of one seed."""
    source = Source(seed, LENGTH)
    test = source.draw(Noise(8000 + seed, range(TEST)))

    def above(nats: Tensor) -> float:
        return float(bits_per_token((nats - source.nats(test)).mean(), LENGTH))

    model = trained(source, seed, lambda model, x0, noise: elbo(model, PROCESS, x0, noise, times=weyl))
    grids = [torch.linspace(1, 0, steps + 1, dtype=DOUBLE) for steps in GRIDS]
    discrete = exact_discrete_bound(model, PROCESS, test, grids)
    cosine = Absorbing(BASES, Cosine())
    losses: dict[str, Loss] = {
        "lambda-DCE": lambda model, x0, noise: lambda_dce(model, PROCESS, x0, noise, times=weyl),
        "any-order": lambda model, x0, noise: any_order(model, PROCESS, x0, noise, times=weyl),
        "cosine": lambda model, x0, noise: elbo(model, cosine, x0, noise, times=weyl),
        "15 % masked (control)": sometimes,
    }
    others = {
        f"bits a base above the source, {name}": above(exact_bound(trained(source, seed, loss), PROCESS, test))
        for name, loss in losses.items()
    }
    return {
        "bits a base of the source": float(bits_per_token(source.nats(test).mean(), LENGTH)),
        **{
            f"bits a base above the source, {steps} steps": above(nats)
            for steps, nats in zip(GRIDS, discrete.unbind(1), strict=True)
        },
        "bits a base above the source, continuous": above(exact_bound(model, PROCESS, test)),
        "bits a base above the source, the model's own likelihood": above(-exact_log_likelihood(model, PROCESS, test)),
        **others,
        "spread of the loss, low-discrepancy / independent times": spread(model, test, weyl)
        / spread(model, test, independent),
    }


def trained(source: Source, seed: int, loss: Loss) -> Subs:
    """A network trained by a loss on fresh sequences of the source."""
    network = made(seed, Dense, length=LENGTH)
    model = Subs(network, PROCESS)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        rows = range(step * BATCH, (step + 1) * BATCH)
        x0 = source.draw(Noise(9000 + seed, rows))
        optimizer.zero_grad()
        loss(model, x0, Noise(seed, rows)).mean().backward()
        optimizer.step()
        decay.step()
    network.requires_grad_(False)
    return model


def sometimes(model: Subs, x0: Tensor, noise: Noise) -> Tensor:
    """The loss at a share of masks of 15 %, whatever that says about other shares."""
    return lambda_dce(model, PROCESS, x0, noise, times=lambda noise, device: torch.full((len(x0),), 0.15, dtype=DOUBLE))


def spread(model: Subs, test: Tensor, times: Callable[[Noise, torch.device], Tensor]) -> float:
    """The standard deviation, over 1000 seeds, of the mean loss of a batch of 64."""
    x0 = test[:64]
    means = [elbo(model, PROCESS, x0, Noise(seed, range(len(x0))), times=times).mean() for seed in range(1000)]
    return float(torch.stack(means).std())
