"""What the claims about PaD-TS share: trainings and their CPU time, the ablations, scores beside their floors.

The paper trains a network twice as wide for 70,000 steps on a GPU. Here the *full* model has H = 64 and 2,000 steps,
one seed, a few CPU-minutes; the *small* ones of the ablations have H = 32 and 400 steps, on every seed. They differ in
the objective alone: same network, data, steps, batches and initial weights. The learning rate was chosen on two shorter
runs on Sines. Each model is sampled in 10, 20 or 50 steps, as its FDDS against the training windows decides, on other
draws than those that are scored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from degauss.core.checkpoint import remove
from degauss.core.claims import Verdict
from degauss.timeseries.copies import check_copies
from degauss.timeseries.generation_data import Split, Units
from degauss.timeseries.padts import (
    Fourier,
    Generating,
    Objective,
    PaDTS,
    Population,
    best_steps,
    fit,
    generate,
    own_times,
    recipe,
)
from degauss.timeseries.padts_net import PaDTSConfig
from degauss.timeseries.population import fdds, vds
from degauss.timeseries.posthoc import discriminative_score, predictive_score

Array = NDArray[np.float64]

FULL_STEPS, SMALL_STEPS, LR = 2000, 400, 3e-3
DRAWN, JUDGED, PROBED = 2000, 1000, 300
OTHERS = ("alpha = 0", "own times", "Diffusion-TS's loss")


class Trained(NamedTuple):
    """A model and what its training took, in CPU-seconds of one thread."""

    model: PaDTS
    seconds: float


def trained(name: str, windows: Array, units: Units, objective: Objective, seed: int, *, full: bool) -> Trained:
    """The model of a name and seed, or what an earlier run left of it."""
    steps = FULL_STEPS if full else SMALL_STEPS
    out = Path(f"out/claims/padts-{name}-{steps}-{seed}".replace(" ", "-").replace("'", "").replace("=", "is"))
    timing = out / "seconds.json"
    if not timing.exists():
        if out.exists():  # stopped half-way: its time is not known
            remove(out)
        config = PaDTSConfig(features=len(units.names), length=windows.shape[1], hidden=64 if full else 32, expansion=2)
        begin = time.process_time()
        fit(config, windows, units, recipe(out, steps=steps, lr=LR, seed=seed, device="cpu"), objective)
        timing.write_text(json.dumps(time.process_time() - begin))
    return Trained(PaDTS.load(out / "model"), float(json.loads(timing.read_text())))


def full_figures(name: str, real: Split, units: Units, weight: float, seed: int) -> dict[str, list[float]]:
    """The full model against training and held-out windows, each score beside its floor, and the copy check."""
    model, seconds = trained(f"{name}-full", real.train, units, Population(weight), seed, full=True)
    steps = best_steps(model, real.train, count=PROBED, seed=seed + 1000)
    made = units.unit(generate(model, DRAWN, Generating(steps, seed=seed)))
    train, held = (units.unit(part) for part in real)
    # The floor against training windows: some of them, chosen at random, against the others.
    order = np.random.default_rng(seed).permutation(len(train))
    count = min(DRAWN, len(train) // 2)
    first, second = train[order[:count]], train[order[count:]]
    some = held[np.random.default_rng(seed).permutation(len(held))[:count]]
    copies = check_copies(train, some, made)
    return {
        "FDDS against training": [fdds(train, made)],
        "FDDS floor, training against training": [fdds(second, first)],
        "FDDS against held-out": [fdds(some, made)],
        "FDDS floor, training against held-out": [fdds(some, first)],
        "FDDS of the control, Gaussian windows": [fdds(train, gaussian(train, seed))],
        "VDS against training": [vds(train, made)],
        "VDS floor, training against training": [vds(second, first)],
        "VDS against held-out": [vds(some, made)],
        "VDS floor, training against held-out": [vds(some, first)],
        "discriminative score": [discriminative_score(first[:JUDGED], made[:JUDGED])],
        "discriminative floor": [discriminative_score(first[:JUDGED], second[:JUDGED])],
        "predictive score on held-out": [predictive_score(some[:JUDGED], made[:JUDGED])],
        "predictive floor on held-out": [predictive_score(some[:JUDGED], first[:JUDGED])],
        "share nearer to training than 95 % of held-out (5 % if alike)": [copies.near],
        "the same, chance explains up to": [copies.limit],
        "steps of sampling": [steps],
        "CPU-seconds of training": [seconds],
    }


def gaussian(windows: Array, seed: int) -> Array:
    """Independent normal values of the mean and standard deviation of each feature, as many windows."""
    values = np.random.default_rng(seed).normal(size=windows[:DRAWN].shape)
    return values * windows.std((0, 1)) + windows.mean((0, 1))


def ablation(name: str, real: Split, units: Units, weight: float, seeds: Sequence[int]) -> dict[str, list[float]]:
    """FDDS against training windows of small models that differ in their objective."""
    objectives: dict[str, Objective] = {
        "PaD-TS": Population(weight),
        "alpha = 0": Population(0.0),
        "own times": Population(weight, own_times),
        "Diffusion-TS's loss": Fourier(),
    }
    train = units.unit(real.train)
    found: dict[str, list[float]] = {}
    for kind, objective in objectives.items():
        for seed in seeds:
            model, _ = trained(f"{name}-{kind}", real.train, units, objective, seed, full=False)
            steps = best_steps(model, real.train, count=PROBED, seed=seed + 1000)
            made = units.unit(generate(model, JUDGED, Generating(steps, seed=seed)))
            found.setdefault(f"small, {kind}: FDDS", []).append(fdds(train, made))
            found.setdefault(f"small, {kind}: VDS", []).append(vds(train, made))
    return found


def judged(figures: dict[str, list[float]], goal: float) -> Verdict:
    """Holds: the goal is met and the small PaD-TS has the lowest median FDDS. Partly: one of the two."""
    met = figures["FDDS against training"][0] < goal and figures["CPU-seconds of training"][0] <= 600
    ours = median(figures["small, PaD-TS: FDDS"])
    best = all(ours < median(figures[f"small, {kind}: FDDS"]) for kind in OTHERS)
    control = figures["FDDS of the control, Gaussian windows"][0] > goal
    if not control or not (met or best):
        return "does not hold"
    return "holds" if met and best else "holds partly"
