r"""Neural differential equations that read an irregular series: from its control path to a state at every time.

A series becomes a continuous path X on [0, span], with time itself as a further channel. An equation driven by it
starts from z(0) = A X(0) + b and is solved by Euler-Maruyama on the grid:

    "lsde"            dz = gamma(z, X(t)) dt + sigma(t) dW            Langevin-type
    "lnsde"           dz = gamma(t, z, X(t)) dt + sigma(t) z dW       linear noise
    "gsde"            dz = z (gamma(t, z, X(t)) dt + sigma(t) dW)     geometric
    "naive"           dz = f(t, z) dt + g(t, z) dW                    knows X(0) only
    "naive+control"   dz = f(t, z, X(t)) dt + g(t, z) dW              tells the control from the class of noise
    "cde"             dz = tanh(F(z)) dX                              no noise
    "gru-d"           a recurrent network, the baseline (`gru_d`)

The first three are the stable classes of Oh, Lim and Kim 2024, Stable neural stochastic differential equations in
analyzing irregular time series data; with stabilisers "published" as in its benchmark, with "none" as in its
equations. Euler's method sees the path at the knots alone, where "hermite" is "linear"; "natural" differs, since its
spline passes through missing values elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from degauss.core.errors import InputError, check_option, check_range
from degauss.core.kernel import Event, simulate
from degauss.core.noise import Noise
from degauss.core.sde import (
    PUBLISHED,
    EulerMaruyama,
    GeometricSDE,
    LangevinSDE,
    LinearNoiseSDE,
    NeuralCDE,
    NeuralSDE,
    Path,
    Stabilisers,
    along,
    hermite,
    linear,
    natural,
)
from degauss.timeseries.gru_d import GRUD
from degauss.timeseries.irregular import Array, Irregular, placed, resampled

Model = Literal["lsde", "lnsde", "gsde", "naive", "naive+control", "cde", "gru-d"]
Control = Literal["linear", "hermite", "natural"]
Clipping = Literal["published", "none"]

MODELS: tuple[Model, ...] = ("lsde", "lnsde", "gsde", "naive", "naive+control", "cde", "gru-d")
_STABLE = {"lsde": LangevinSDE, "lnsde": LinearNoiseSDE, "gsde": GeometricSDE}
_CONTROLS = {"linear": linear, "hermite": hermite, "natural": natural}


@dataclass(frozen=True)
class EncoderConfig:
    """What reads the series.

    channels: of the series. times: the grid, two or more increasing numbers in the units of the data. hidden: numbers
    in a state. layers: hidden layers of a drift, at least 1. span: how long the grid lasts in the time of the equation.
    `InputError` for values out of range.
    """

    channels: int
    times: tuple[float, ...]
    model: Model = "lnsde"
    hidden: int = 32
    layers: int = 2
    control: Control = "linear"
    stabilisers: Clipping = "published"
    span: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(self.times))
        for name in ("channels", "hidden", "layers"):
            check_range(name, getattr(self, name), 1)
        if not 0 < self.span < float("inf"):
            raise InputError(f"span must be above 0 and finite, but is {self.span}.")
        check_option("model", self.model, MODELS)
        check_option("control", self.control, _CONTROLS)
        check_option("stabilisers", self.stabilisers, ("published", "none"))
        if len(self.times) < 2 or not all(a < b for a, b in zip(self.times, self.times[1:], strict=False)):
            raise InputError(f"times must be two or more increasing numbers, but are {self.times[:8]}.")

    @property
    def grid(self) -> Array:
        return np.asarray(self.times)

    @property
    def knots(self) -> Array:
        """The grid in the time of the equation, from 0 to ``span``."""
        return (self.grid - self.grid[0]) / (self.grid[-1] - self.grid[0]) * self.span


class SDEEncoder(nn.Module):
    """States of a differential equation along the control path of each series."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.knots = torch.from_numpy(config.knots)
        self.start = nn.Linear(config.channels + 1, config.hidden)
        self.model = _equation(config)

    @property
    def random(self) -> bool:
        """Whether the state depends on the noise."""
        return self.model.calculus is not None

    def inputs(self, series: Irregular) -> tuple[Tensor, ...]:
        """The coefficients of the paths ``[batch, 4, len(grid) - 1, channels + 1]``; the series are standardised."""
        values = torch.from_numpy(resampled(series, self.config.grid)).float()
        clock = self.knots.to(values)[None, :, None].expand(len(values), -1, 1)
        path = _CONTROLS[self.config.control](self.knots, torch.cat([values, clock], -1))
        return (path.coefficients.permute(2, 0, 1, 3),)

    def forward(self, inputs: Sequence[Tensor], noise: Noise, *, keep: Literal["all", "last"]) -> Tensor:
        """The states at all grid times ``[len(grid), batch, hidden]``, or the last ``[batch, hidden]``."""
        path = Path(self.knots, inputs[0].permute(1, 2, 0, 3))
        equation = self.model if self.config.model == "naive" else along(self.model, path)
        z = self.start(path(self.knots[:1])[0])
        states = [z]

        def record(event: Event) -> None:
            states.append(event.x)

        observers = (record,) if keep == "all" else ()
        last = simulate(EulerMaruyama(equation), z, self.knots, noise, observe=observers)
        return torch.stack(states) if keep == "all" else last


class GRUDEncoder(nn.Module):
    """States of GRU-D, with the same manners."""

    random = False

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.network = GRUD(config.channels, config.hidden)

    def inputs(self, series: Irregular) -> tuple[Tensor, ...]:
        values = torch.from_numpy(placed(series, self.config.grid)).float()
        return GRUD.inputs(values, torch.from_numpy(self.config.knots))

    def forward(self, inputs: Sequence[Tensor], noise: Noise, *, keep: Literal["all", "last"]) -> Tensor:
        del noise
        states = self.network(*inputs)
        return states if keep == "all" else states[-1]


Encoder = SDEEncoder | GRUDEncoder


def encoder(config: EncoderConfig) -> Encoder:
    """A freshly initialised encoder."""
    return GRUDEncoder(config) if config.model == "gru-d" else SDEEncoder(config)


def _equation(config: EncoderConfig) -> LangevinSDE | LinearNoiseSDE | GeometricSDE | NeuralSDE | NeuralCDE:
    size, width, channels = config.hidden, config.hidden, config.channels + 1
    if config.model in _STABLE:
        stabilisers = PUBLISHED if config.stabilisers == "published" else Stabilisers()
        return _STABLE[config.model](size, width=width, depth=config.layers, channels=channels, stabilisers=stabilisers)
    if config.model == "cde":
        return NeuralCDE(size, width=width, channels=channels, depth=config.layers)
    return NeuralSDE(size, width=width, depth=config.layers, channels=0 if config.model == "naive" else channels)
