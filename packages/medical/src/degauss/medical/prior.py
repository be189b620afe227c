r"""A prior of slices: a diffusion model of single axial slices, which methods couple into volumes.

    prior = SlicePrior.load(find_prior("ct"))
    denoiser = prior.on_volumes(schedule)                   # E[x0 | x_t] of volumes [batch, slices, rows, columns]

The network stands inside EDM's preconditioning (Karras et al. 2022), which sees the ratio of noise to data alone: one
network serves variance-preserving, variance-exploding and EDM schedules. Levels outside the range it was trained in
are told as the nearest one inside.

Values are in prior units, x = value / full, air or background at 0. A prior lies in a folder: ``model.safetensors``,
``config.json``, and ``card.json`` where it tells of its training.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from degauss.core.checkpoint import as_tuples, load_frozen, save_model
from degauss.core.denoiser import Denoiser, InRange, Karras, NetworkDenoiser
from degauss.core.errors import InputError, check_option, check_range
from degauss.core.inverse.slices import SliceWise
from degauss.core.nets.ncsnpp import NCSNpp, NCSNppConfig
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule
from degauss.core.shipping import find_shipped, shipped_in
from degauss.medical.acquisition import Modality
from degauss.medical.scans import Scan
from degauss.medical.volumes import CT_FULL

KIND = "degauss.medical/slice-prior"
SHIPPED = Path(__file__).parent / "weights"
"""Where the priors lie that ship with the package, each in a folder of its name."""
FULL: Mapping[Modality, float] = {"ct": CT_FULL, "mr": 1.0}
"""What x = 1 stands for: the attenuation of HU +1000 in 1/mm; MR has no unit, and each scan brings its own."""

SMALL = NCSNppConfig(channels=32, multipliers=(1, 2, 2), patch=2)
"""1.24 million weights, 5 MB; on one CPU core 45 ms for a slice of 128 x 128."""


@dataclass(frozen=True)
class PriorConfig:
    """What a prior is.

    ``size``: the most pixels a side that it was trained at; ``spacing``: the finest and the coarsest pixels it knows,
    mm; ``full``: what x = 1 stands for (see `FULL`); ``sigma_data``: root mean square of the slices, in prior units;
    ``noise``: the levels sigma / alpha it was trained in, in prior units.
    """

    modality: Modality
    full: float
    network: NCSNppConfig = SMALL
    size: int = 128
    spacing: tuple[float, float] = (1.5, 7.0)
    sigma_data: float = 0.5
    noise: tuple[float, float] = (0.002, 400.0)

    def __post_init__(self) -> None:
        check_option("modality", self.modality, get_args(Modality))
        check_range("size", self.size, 8, unit="pixels")
        for name in ("spacing", "noise"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise InputError(f"{name} must be two numbers above 0, the smaller first, but is ({low}, {high}).")
        for name in ("full", "sigma_data"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a number above 0, but is {getattr(self, name)}.")


@dataclass(frozen=True, eq=False)
class SlicePrior:
    """A configuration and its network."""

    config: PriorConfig
    network: nn.Module = field(repr=False)

    @classmethod
    def new(cls, config: PriorConfig, seed: int = 0) -> SlicePrior:
        """A freshly initialised prior, which takes every slice for air."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, NCSNpp(config.network, inputs=1, outputs=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SlicePrior:
        """A saved prior, frozen, in eval mode; `InputError` for anything that is not one."""
        return load_frozen(path, KIND, "a slice prior", lambda values: cls.new(_config(values)))

    def save(
        self,
        path: str | os.PathLike[str],
        card: Mapping[str, Any] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the prior as a folder, with a card if there is one, and other weights than the network's if given."""
        save_model(path, self.network if weights is None else weights, KIND, asdict(self.config), card=card)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> SlicePrior:
        """This prior, its network moved."""
        self.network.to(device)
        return self

    def denoiser(self, schedule: Schedule) -> Denoiser[Point]:
        """E[x0 | x_t] of slices ``[n, 1, rows, columns]`` in prior units, float32."""
        low, high = (0.25 * math.log(sigma) for sigma in self.config.noise)
        return NetworkDenoiser(InRange(self.network, low, high), schedule, Karras(self.config.sigma_data))

    def on_volumes(self, schedule: Schedule, chunk: int = 16) -> Denoiser[Point]:
        """E[x0 | x_t] of volumes ``[batch, slices, rows, columns]``, ``chunk`` slices at a time."""
        return SliceWise(self.denoiser(schedule), chunk)

    def check(self, scan: Scan) -> None:
        """`InputError` for a scan of another modality, of another unit, or of pixels that the prior does not know."""
        config = self.config
        if scan.modality != config.modality:
            found, known = scan.modality.upper(), config.modality.upper()
            raise InputError(f"the scan is of {found}, but this prior knows {known}: name another prior.")
        if scan.modality == "ct" and not math.isclose(scan.full, config.full, rel_tol=0.01):
            raise InputError(
                f"x = 1 stands for {scan.full:.4g} per mm in the scan, but for {config.full:.4g} per mm in this prior."
            )
        self.check_spacing(scan.spacing[1:])

    def check_spacing(self, spacing: tuple[float, float]) -> None:
        """`InputError` for pixels of (dy, dx) mm outside the range that the prior was trained in."""
        low, high = self.config.spacing
        # A millionth of room, as files keep spacings in float32.
        if not all(low * (1 - 1e-6) <= side <= high * (1 + 1e-6) for side in spacing):
            raise InputError(
                f"the scan's pixels are {spacing[0]:.4g} x {spacing[1]:.4g} mm, but this prior knows {low:g} to "
                f"{high:g} mm: simulate or resample it at such a size."
            )


def find_prior(name: str | os.PathLike[str]) -> Path:
    """The folder of a prior, by the name of one that ships or by its path; `InputError` if there is neither."""
    return find_shipped(name, SHIPPED, "prior", "train-prior")


def shipped_priors() -> list[str]:
    """The names of the priors that ship with the package."""
    return shipped_in(SHIPPED)


def _config(values: dict[str, Any]) -> PriorConfig:
    made: dict[str, Any] = as_tuples(values)
    return PriorConfig(network=NCSNppConfig(**made.pop("network")), **made)
