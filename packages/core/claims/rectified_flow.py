"""Rectified flow: training again on the pairs that its own ODE joins makes its paths straight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from degauss.core import NetworkDenoiser, Noise, RectifiedFlow, sample, simulate
from degauss.core.claims import Claim, Result
from degauss.core.denoiser import Flow
from degauss.core.gaussian import Heun, ddim
from degauss.core.grid import uniform_time
from degauss.core.observe import Trajectory
from degauss.core.process.rectified import LogitNormal, Pairs, reflow_pairs, straightness

from ._paths import COUNT, Network, circle, distance, from_pairs, independent, trained, whole
from ._problem import DOUBLE, median, verdict

CLAIM = Claim(
    paper=(
        "Liu, Gong and Liu 2023, Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified "
        "Flow (theorems 3.5 and 3.7, section 3.1); Esser et al. 2024, Scaling Rectified Flow Transformers for "
        "High-Resolution Image Synthesis (section 5.1, table 1)"
    ),
    statement=(
        "The pairs (noise, data) that a rectified flow joins cost less transport than independent ones; training "
        "again on them (reflow) straightens the paths, so that one Euler step is a sampler. (SD3:) training "
        "times drawn by the logit-normal law give better samples than uniform ones."
    ),
    expected=(
        "On eight Gaussians with a small network: (a) the mean of |x0 - eps|^2 over the pairs of the exact flow is "
        "smaller than over independent ones for every seed; reflow brings (b) the straightness integral to a "
        "quarter or less and (c) the sliced W2 distance of one-step samples to a half or less, for every seed; "
        "(d) logit-normal times (mean 0, std 1) give a smaller distance with 25 Euler steps than uniform ones, in "
        "the median. Control: training again on the same data and noise in another order must leave the "
        "straightness integral above 0.7 of what it was."
    ),
)

SCHEDULE = RectifiedFlow()


def run(seeds: Sequence[int]) -> Result:
    found = [one(seed) for seed in seeds]
    figures = {name: [values[name] for values in found] for name in found[0]}
    straight, bent, control = (
        figures[f"straightness integral, {name}"] for name in ("first flow", "after reflow", "shuffled pairs (control)")
    )
    before, after = (figures[f"distance, one step, {name}"] for name in ("first flow", "after reflow"))
    uniform, logit = (figures[f"distance, 25 steps, {name} times"] for name in ("uniform", "logit-normal"))
    return Result(
        verdict(
            [
                all(value < 1 for value in figures["transport cost of exact pairs / of independent ones"]),
                all(b <= 0.25 * a for a, b in zip(straight, bent, strict=True)),
                all(b <= 0.5 * a for a, b in zip(before, after, strict=True)),
                median(logit) < median(uniform),
            ],
            [all(b > 0.7 * a for a, b in zip(straight, control, strict=True))],
        ),
        figures,
        notes=(
            "Each network has 1000 steps of 256; reflow uses 4096 pairs made by 50 steps of Heun's method and goes on "
            "from the first flow's weights."
        ),
    )


def one(seed: int) -> dict[str, float]:
    """All figures of one seed."""
    first = trained(SCHEDULE, Flow(), independent(SCHEDULE, seed), seed, whole)
    logit = trained(SCHEDULE, Flow(), independent(SCHEDULE, seed), seed, LogitNormal())
    joined = pairs(first, seed)
    again = trained(SCHEDULE, Flow(), from_pairs(joined, seed), seed, whole, first)
    shuffled = Pairs(joined.eps, joined.x0.roll(1, 0))
    control = trained(SCHEDULE, Flow(), from_pairs(shuffled, seed), seed, whole, first)
    names = {"first flow": first, "after reflow": again, "shuffled pairs (control)": control}
    return {
        "transport cost of exact pairs / of independent ones": cost(seed),
        **{f"straightness integral, {name}": bending(network, seed) for name, network in names.items()},
        "distance, one step, first flow": distance(drawn(first, seed, 1), seed),
        "distance, one step, after reflow": distance(drawn(again, seed, 1), seed),
        "distance, 25 steps, uniform times": distance(drawn(first, seed, 25), seed),
        "distance, 25 steps, logit-normal times": distance(drawn(logit, seed, 25), seed),
        "distance, 25 steps, after reflow": distance(drawn(again, seed, 25), seed),
    }


def cost(seed: int) -> float:
    """Mean |x0 - eps|^2 over pairs of the exact flow, relative to that of independent pairs."""
    eps, x0 = reflow_pairs(
        circle(SCHEDULE), SCHEDULE, (2,), range(COUNT), solver=ddim(), steps=100, seed=700 + seed, dtype=DOUBLE
    )
    return float((x0 - eps).square().mean() / (x0.square().mean() + eps.square().mean()))


def model(network: Network) -> NetworkDenoiser:
    return NetworkDenoiser(network, SCHEDULE, Flow())


def pairs(network: Network, seed: int) -> Pairs:
    """Noise and where the learned flow takes it; Heun's method starts a little below t = 1, where alpha is 0."""
    grid = uniform_time(SCHEDULE, 50, start=1 - 1e-4)
    return reflow_pairs(
        model(network), SCHEDULE, (2,), range(COUNT), solver=Heun, steps=50, grid=grid, seed=600 + seed, batch=COUNT
    )


def drawn(network: Network, seed: int, steps: int) -> Tensor:
    """Samples by Euler's method, which on this schedule is DDIM."""
    return sample(model(network), SCHEDULE, (COUNT, 2), solver=ddim(), steps=steps, seed=800 + seed)


def bending(network: Network, seed: int) -> float:
    """The mean straightness integral of 1024 trajectories of 50 Euler steps."""
    noise = Noise(800 + seed, range(1024))
    start, record = noise.normal(torch.empty(1024, 2)), Trajectory()
    grid = uniform_time(SCHEDULE, 50)
    simulate(ddim()(model(network), SCHEDULE), start, grid, noise, observe=[record])
    return float(straightness(torch.cat([start[None], record.stack()]), grid).mean())
