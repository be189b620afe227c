"""BDIA: an exact inversion at one evaluation a step, and a better sampler than DDIM."""

from __future__ import annotations

from collections.abc import Sequence

from degauss.core.claims import Claim, Result
from degauss.core.inversion.ddim import DDIMInversion
from degauss.core.inversion.two_state import BDIA

from ._inversion import DOUBLE, SINGLE, distance, restored, retraced
from ._problem import median, verdict

CLAIM = Claim(
    paper="Zhang, Lewis and Kleijn 2023, Exact Diffusion Inversion via Bi-directional Integration Approximation",
    statement=(
        "Averaging DDIM steps forwards and backwards over each interval makes the sampler exactly invertible at no "
        "further evaluation, and more accurate than DDIM."
    ),
    expected=(
        "(a) gamma = 1, 50 steps, largest error over coordinates of unit size: data to noise to data, and noise to "
        "data to noise from both states, below 1e-10 in float64 and below 1e-4 in float32, for every seed; (b) the "
        "RMS distance to where the ODE ends is smaller than DDIM's for every seed, at 50 steps with gamma = 1 (at "
        "least 3 times) and at 10 steps with gamma = 0.5. Control: with gamma = 0.5 noise to data to noise must be "
        "lost in float32 (error above 1), since rounding grows as gamma^-N."
    ),
)


def run(seeds: Sequence[int]) -> Result:
    exact = {
        (way.__name__, name): [way(BDIA(), seed, dtype) for seed in seeds]
        for way in (restored, retraced)
        for name, dtype in (("float64", DOUBLE), ("float32", SINGLE))
    }
    lost = [retraced(BDIA(0.5), seed, SINGLE) for seed in seeds]
    away = {
        (name, steps): [distance(method, seed, steps) for seed in seeds]
        for name, method in {"DDIM": DDIMInversion(), "gamma = 0.5": BDIA(0.5), "gamma = 1": BDIA()}.items()
        for steps in (10, 50)
    }
    within = [max(values) < {"float64": 1e-10, "float32": 1e-4}[name] for (_, name), values in exact.items()]
    closer = [
        all(3 * a < b for a, b in zip(away["gamma = 1", 50], away["DDIM", 50], strict=True)),
        all(a < b for a, b in zip(away["gamma = 0.5", 10], away["DDIM", 10], strict=True)),
    ]
    return Result(
        verdict([*within, *closer], [median(lost) > 1]),
        {
            **{f"largest error, {way}, {name}": values for (way, name), values in exact.items()},
            "largest error, retraced, float32, gamma = 0.5 (control)": lost,
            **{f"distance to the ODE, {name}, {steps} steps": v for (name, steps), v in away.items()},
        },
        notes=(
            "restored: data to noise to data, from the data alone; retraced: noise to data to noise, from both states."
        ),
    )
