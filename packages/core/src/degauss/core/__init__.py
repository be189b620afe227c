"""Degauss core: diffusion models for data that is not images.

Four words carry everything: a *denoiser* maps a noisy state to a posterior over clean data, a *schedule* says how
noise enters, a *kernel* is one method's step along a time grid, and *noise* is keyed randomness. See
ARCHITECTURE.md.

Names are imported when first used, so that command lines answer ``--help`` without importing torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from degauss.core.denoiser import (
        Denoiser,
        NetworkDenoiser,
        eps_prediction,
        flow_prediction,
        karras_prediction,
        score_prediction,
        v_prediction,
        x0_prediction,
    )
    from degauss.core.errors import InputError
    from degauss.core.kernel import Kernel, simulate
    from degauss.core.noise import Noise
    from degauss.core.posterior import Categorical, Point
    from degauss.core.sampling import sample
    from degauss.core.schedule import (
        EDM,
        VE,
        Cosine,
        DiscreteVP,
        LinearVP,
        RectifiedFlow,
        Scales,
        Schedule,
        Shifted,
        SubVP,
        ZeroTerminalSNR,
    )

__all__ = [
    "EDM",
    "VE",
    "Categorical",
    "Cosine",
    "Denoiser",
    "DiscreteVP",
    "InputError",
    "Kernel",
    "LinearVP",
    "NetworkDenoiser",
    "Noise",
    "Point",
    "RectifiedFlow",
    "Scales",
    "Schedule",
    "Shifted",
    "SubVP",
    "ZeroTerminalSNR",
    "eps_prediction",
    "flow_prediction",
    "karras_prediction",
    "sample",
    "score_prediction",
    "simulate",
    "v_prediction",
    "x0_prediction",
]

_HOMES = {
    "denoiser": (
        "Denoiser",
        "NetworkDenoiser",
        "eps_prediction",
        "flow_prediction",
        "karras_prediction",
        "score_prediction",
        "v_prediction",
        "x0_prediction",
    ),
    "errors": ("InputError",),
    "kernel": ("Kernel", "simulate"),
    "noise": ("Noise",),
    "posterior": ("Categorical", "Point"),
    "sampling": ("sample",),
    "schedule": (
        "Cosine",
        "DiscreteVP",
        "EDM",
        "LinearVP",
        "RectifiedFlow",
        "Scales",
        "Schedule",
        "Shifted",
        "SubVP",
        "VE",
        "ZeroTerminalSNR",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
