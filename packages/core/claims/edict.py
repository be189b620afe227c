"""EDICT: two coupled copies make DDIM's inversion exact."""

from __future__ import annotations

from collections.abc import Sequence

from degauss.core.claims import Claim, Result
from degauss.core.inversion.ddim import DDIMInversion
from degauss.core.inversion.edict import EDICT

from ._inversion import DOUBLE, SINGLE, made, restored, retraced, times
from ._problem import median, verdict

CLAIM = Claim(
    paper="Wallace, Gokul and Naik 2023, EDICT: Exact Diffusion Inversion via Coupled Transformations",
    statement=(
        "Two coupled noise vectors make the inversion of a diffusion model exact, for data that it has not made too, "
        "where DDIM's inversion is approximate; mixing them at every step keeps them together."
    ),
    expected=(
        "with p = 0.93 and 50 steps, largest error over coordinates of unit size: (a) data to noise to data, and "
        "noise to data to noise from both copies, below 1e-10 in float64 and below 1e-3 in float32, for every seed; "
        "(b) the copies end closer together than with p = 1 for every seed, at 20 and at 50 steps. Control: DDIM and "
        "its inversion must lose more than 1e-2 both ways in float64."
    ),
)


def run(seeds: Sequence[int]) -> Result:
    errors = {
        f"{way.__name__}, {name}": [way(method, seed, dtype) for seed in seeds]
        for way in (restored, retraced)
        for name, method, dtype in (
            ("EDICT, float64", EDICT(), DOUBLE),
            ("EDICT, float32", EDICT(), SINGLE),
            ("DDIM, float64 (control)", DDIMInversion(), DOUBLE),
        )
    }
    gaps = {(p, steps): [gap(p, seed, steps) for seed in seeds] for p in (0.93, 1.0) for steps in (20, 50)}
    limits = {"EDICT, float64": 1e-10, "EDICT, float32": 1e-3}
    exact = [
        max(values) < limit for key, values in errors.items() for name, limit in limits.items() if key.endswith(name)
    ]
    together = [all(a < b for a, b in zip(gaps[0.93, steps], gaps[1.0, steps], strict=True)) for steps in (20, 50)]
    return Result(
        verdict([*exact, *together], [median(v) > 1e-2 for k, v in errors.items() if k.endswith("(control)")]),
        {
            **{f"largest error, {name}": values for name, values in errors.items()},
            **{f"gap between the copies (RMS), p = {p:g}, {steps} steps": v for (p, steps), v in gaps.items()},
        },
        notes=(
            "restored: data to noise to data, from the data alone; retraced: noise to data to noise, from both copies."
        ),
    )


def gap(p: float, seed: int, steps: int) -> float:
    """How far apart the copies end."""
    x, y = made(EDICT(p), seed, times(steps))
    assert y is not None
    return float((x - y).pow(2).mean().sqrt())
