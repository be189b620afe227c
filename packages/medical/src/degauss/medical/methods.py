"""Every method by its name, as a command line calls it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

from degauss.core.errors import InputError, check_option
from degauss.medical.classical import CG, FBP, SIRT, TV, Wavelet
from degauss.medical.problem import Method
from degauss.medical.samplers import DDNM, DDS, DDSTV, DPS, MBIR, DiffPIR, PiGDM, REDDiff

MethodName = Literal[
    "mbir", "dds", "dds-tv", "dps", "pigdm", "ddnm", "diffpir", "reddiff", "tv", "wavelet", "fbp", "sirt", "cg"
]

__all__ = [
    "CG",
    "DDNM",
    "DDS",
    "DDSTV",
    "DPS",
    "FBP",
    "MBIR",
    "SIRT",
    "TV",
    "DiffPIR",
    "MethodName",
    "PiGDM",
    "REDDiff",
    "Wavelet",
    "method_of",
    "settings",
]

_METHODS: tuple[type[Method], ...] = (MBIR, DDS, DDSTV, DPS, PiGDM, DDNM, DiffPIR, REDDiff, TV, Wavelet, FBP, SIRT, CG)


def method_of(name: MethodName, steps: int | None = None) -> Method:
    """The method of a name, with its own settings but for ``steps``; `InputError` for one that takes none."""
    method = {kind.name: kind for kind in _METHODS}[check_option("method", name, (kind.name for kind in _METHODS))]()
    if steps is None:
        return method
    if "steps" not in settings(method):
        raise InputError(f"{name} takes no steps, but {steps} are asked for.")
    return replace(method, steps=steps)  # pyright: ignore[reportArgumentType, reportCallIssue]


def settings(method: Method) -> dict[str, Any]:
    """The fields of a method's configuration."""
    return asdict(method)  # pyright: ignore[reportArgumentType]  (all are dataclasses)
