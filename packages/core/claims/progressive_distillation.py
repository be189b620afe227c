"""Progressive distillation: a sampler of 16 steps becomes one of 4, halving by halving."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from degauss.core import Cosine, Noise, sample, v_prediction
from degauss.core.claims import Claim, Result
from degauss.core.denoiser import V
from degauss.core.distill import distillation_loss, halve, truncated_snr
from degauss.core.gaussian import ddim
from degauss.core.grid import uniform_time

from ._paths import BATCH, COUNT, STEPS, Network, distance, independent, trained, whole
from ._problem import median, verdict

FIRST, LAST = 16, 4

CLAIM = Claim(
    paper=(
        "Salimans and Ho 2022, Progressive Distillation for Fast Sampling of Diffusion Models (ICLR; section 3, "
        "algorithm 2, table 2 and figure 4)"
    ),
    statement=(
        "A student that learns to do in one step what two DDIM steps of its teacher do, and teaches the next in turn, "
        "keeps the samples of many steps in few; DDIM with the undistilled model in as few steps loses them."
    ),
    expected=(
        "On eight Gaussians with a small network that predicts v, from 16 steps to 4 in two halvings, for every seed: "
        "(a) the student's sliced W2 distance is at most half of the first network's in 4 steps; (b) the median "
        "distance of its samples from those of 16 steps out of the same noise is at most half of what 4 steps of the "
        "first network leave; and (c) in the median over seeds its sliced W2 distance is at most 0.05 above that of 16 "
        "steps. Control: as much further training on the first loss must leave 4 steps above 0.75 of their distance."
    ),
)

SCHEDULE = Cosine()


def run(seeds: Sequence[int]) -> Result:
    found = [one(seed) for seed in seeds]
    figures = {name: [values[name] for values in found] for name in found[0]}
    many, skipped, student, control = (
        figures[f"distance, {name}"]
        for name in ("16 steps", "4 steps", "4 steps of the student", "4 steps, trained on (control)")
    )
    near, far = (figures[f"from the 16 steps' samples, 4 steps{name}"] for name in (" of the student", ""))
    return Result(
        verdict(
            [
                all(a <= 0.5 * b for a, b in zip(student, skipped, strict=True)),
                all(a <= 0.5 * b for a, b in zip(near, far, strict=True)),
                median(student) <= median(many) + 0.05,
            ],
            [all(a > 0.75 * b for a, b in zip(control, skipped, strict=True))],
        ),
        figures,
        notes="The first network and each halving have 1000 steps of 256; two draws of the data are 0.05 apart.",
    )


def one(seed: int) -> dict[str, float]:
    """All figures of one seed."""
    first = trained(SCHEDULE, V(), independent(SCHEDULE, seed), seed, whole)
    further = trained(SCHEDULE, V(), independent(SCHEDULE, 50 + seed), seed, whole, first)
    student, grid = first, uniform_time(SCHEDULE, FIRST)
    while len(grid) - 1 > LAST:
        student, grid = taught(student, grid, seed), halve(grid)
    many, skipped = drawn(first, seed, FIRST), drawn(first, seed, LAST)
    learnt = drawn(student, seed, LAST)
    return {
        "distance, 16 steps": distance(many, seed),
        "distance, 4 steps": distance(skipped, seed),
        "distance, 4 steps of the student": distance(learnt, seed),
        "distance, 4 steps, trained on (control)": distance(drawn(further, seed, LAST), seed),
        "from the 16 steps' samples, 4 steps": float((skipped - many).norm(dim=1).median()),
        "from the 16 steps' samples, 4 steps of the student": float((learnt - many).norm(dim=1).median()),
    }


def taught(teacher: Network, grid: Tensor, seed: int) -> Network:
    """The student of one halving, which starts with its teacher's weights."""
    student = copy.deepcopy(teacher).requires_grad_(True)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        rows = range(step * BATCH, (step + 1) * BATCH)
        x0 = independent(SCHEDULE, seed)(rows).x0
        optimizer.zero_grad()
        distillation_loss(
            v_prediction(student, SCHEDULE),
            v_prediction(teacher, SCHEDULE),
            SCHEDULE,
            grid,
            x0,
            Noise(600 + seed, rows),
            weighting=truncated_snr,
        ).mean().backward()
        optimizer.step()
        decay.step()
    return student.requires_grad_(False)


def drawn(network: Network, seed: int, steps: int) -> Tensor:
    """DDIM samples, the same noise for all."""
    return sample(v_prediction(network, SCHEDULE), SCHEDULE, (COUNT, 2), solver=ddim(), steps=steps, seed=800 + seed)
