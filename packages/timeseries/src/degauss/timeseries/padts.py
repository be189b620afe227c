r"""PaD-TS: a diffusion model of windows of several series that is also trained on what a population of them shows.

The network predicts the clean window x0 from x_t = alpha_t x0 + sigma_t eps on the cosine path. Its loss is

    L = |x0 - x0_hat|^2 + weight * MMD(C(x0), C(x0_hat)),

where C are the cross-correlations of the windows of a batch and MMD is the mean over pairs of features (`population`).
That compares two populations, so all windows of a batch are given the same time t: predictions from much and from
little noise together are no population. Windows of one batch must then be enough to be one; 64 are.

Generation is ordinary diffusion sampling, by any solver, with the prediction held inside the range of the data.

Differences from the paper: t is uniform on (0, 1] instead of on T points, so any grid of times can be sampled, and the
learning rate falls by a cosine from a higher peak, as the published 70,000 steps are not for a CPU.

Two more losses are here to compare with: without the population term (``weight`` 0), and that of Diffusion-TS (Yuan
and Qiao 2024, eq. 7), absolute errors of the window and of its Fourier transform at a time of its own for each window.

Reference: Li et al. 2025, "Population Aware Diffusion for Time Series Generation" (PaD-TS, AAAI), section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.checkpoint import load_frozen, save_model
from degauss.core.denoiser import Denoiser, Network, expand, x0_prediction
from degauss.core.errors import InputError, check_range
from degauss.core.gaussian.exponential import dpmpp
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver, sample
from degauss.core.schedule import Cosine
from degauss.core.train import Shuffle, TrainConfig, train
from degauss.timeseries.generation_data import Units
from degauss.timeseries.padts_net import PaDTSConfig, PaDTSNet
from degauss.timeseries.population import TRAINING_WIDTHS, cross_correlations, fdds, mmd

KIND = "degauss.timeseries/padts"
SCHEDULE = Cosine()

# Standard deviation, in model units, under which a feature counts as flat in a window: the untrained network is.
_FLAT = 1e-3

Array = NDArray[np.float64]


# --- losses -------------------------------------------------------------------------------------------------


class Objective(Protocol):
    """What is minimised: how times are drawn for a batch, and how a prediction is judged."""

    def times(self, u: Tensor, /) -> Tensor:
        """Times in (0, 1], ``[batch]`` or ``[1]``, from uniform numbers ``[batch]``."""
        ...

    def error(self, x0: Tensor, guess: Tensor, /) -> Tensor:
        """The loss of a batch of predicted windows ``[batch, length, features]``, a scalar."""
        ...


def same_time(u: Tensor) -> Tensor:
    """One time for the whole batch, or for each process's share of it: the paper's same-step sampling."""
    return 1 - u[:1]


def own_times(u: Tensor) -> Tensor:
    """A time of its own for each window."""
    return 1 - u


@dataclass(frozen=True)
class Population:
    """PaD-TS: mean squared error plus ``weight`` times the MMD of the cross-correlations (Li et al. 2025, eq. 9).

    ``draw``: `same_time` as in the paper, or `own_times`. The published weights are 5e-4 for Sines and 8e-4 for Stocks.
    """

    weight: float = 5e-4
    draw: Callable[[Tensor], Tensor] = same_time

    def times(self, u: Tensor, /) -> Tensor:
        return self.draw(u)

    def error(self, x0: Tensor, guess: Tensor, /) -> Tensor:
        error = ((guess - x0) ** 2).mean()
        if not self.weight:
            return error
        pairs = cross_correlations(x0, _FLAT), cross_correlations(guess, _FLAT)
        return error + self.weight * mmd(*pairs, TRAINING_WIDTHS, span=2.0).mean()


@dataclass(frozen=True)
class Fourier:
    """As in Diffusion-TS: absolute errors, and ``weight`` times those of the Fourier transform along time.

    The transform is unitary; real and imaginary parts count alike. The published weighting over t is left out.
    """

    weight: float = 1.0

    def times(self, u: Tensor, /) -> Tensor:
        return own_times(u)

    def error(self, x0: Tensor, guess: Tensor, /) -> Tensor:
        spectrum = torch.fft.fft(guess - x0, dim=1, norm="ortho")
        return (guess - x0).abs().mean() + self.weight * (spectrum.real.abs() + spectrum.imag.abs()).mean()


# --- the model ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PaDTS:
    """A model: its configuration, its units, its network, and ``facts`` about its training that JSON can hold."""

    config: PaDTSConfig
    units: Units
    network: PaDTSNet = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def new(cls, config: PaDTSConfig, units: Units, facts: Mapping[str, Any] | None = None, seed: int = 0) -> PaDTS:
        """A freshly initialised model."""
        if len(units.names) != config.features:
            raise ValueError(f"units are of {len(units.names)} features, the configuration is of {config.features}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, units, PaDTSNet(config), dict(facts or {}))

    @classmethod
    def load(cls, path: str | Path) -> PaDTS:
        """A saved model, frozen, in eval mode; `InputError` for anything that is not one."""
        return load_frozen(path, KIND, "a PaD-TS model", cls._unfitted)

    @classmethod
    def _unfitted(cls, values: dict[str, Any]) -> PaDTS:
        low, high = (np.asarray(values.pop(name), np.float64) for name in ("low", "high"))
        units, facts = Units(low, high, tuple(values.pop("names"))), values.pop("facts")
        config = PaDTSConfig(**values)
        if low.shape != (config.features,) or high.shape != low.shape or len(units.names) != config.features:
            raise ValueError("low, high and names do not fit features")
        return cls.new(config, units, facts)

    def save(self, path: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the model as a directory, with the given weights instead of the network's own if there are any."""
        units = {"low": self.units.low.tolist(), "high": self.units.high.tolist(), "names": list(self.units.names)}
        about = asdict(self.config) | units | {"facts": dict(self.facts)}
        save_model(path, self.network if weights is None else weights, KIND, about)

    @property
    def denoiser(self) -> Denoiser[Point]:
        """The denoiser of windows in model units, its posterior mean held inside [-1, 1]."""
        return _Held(x0_prediction(self.network, SCHEDULE))


@dataclass(frozen=True)
class _Held:
    """A denoiser of data that lies in [-1, 1]: so does its mean, and what a network says beyond is an error."""

    denoiser: Denoiser[Point]

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(self.denoiser(x, t, **cond).mean.clamp(-1, 1))


# --- generating ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generating:
    """How a model is sampled: ``steps`` evaluations of the network with a solver, ``rows`` windows at once.

    The paper's sampler is ``ddim(eta=1.0)`` with 250 steps. More steps are not better in themselves. The last
    evaluation is at t = 1 / steps: what is finer than the noise there is averaged away, so rough data want many steps.
    But near t = 0 a network that predicts clean windows is less exact than what it is given, and roughens smooth data,
    the more so the shorter it was trained. `best_steps` finds out.
    """

    steps: int = 50
    solver: Solver = field(default_factory=lambda: dpmpp(2))
    seed: int = 0
    rows: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "rows"):
            check_range(name, getattr(self, name), 1)


def generate(
    model: PaDTS, count: int, generating: Generating, report: Callable[[int, int], None] | None = None
) -> Array:
    """New windows ``[count, length, features]`` in data units; window i of a seed does not depend on the others.

    ``report`` is told (windows done, windows in all). Raises `InputError` if sampling diverges.
    """
    check_range("count", count, 1)
    device = next(model.network.parameters()).device
    shape = (model.config.length, model.config.features)
    out = np.empty((count, *shape))
    for first in range(0, count, generating.rows):
        rows = range(first, min(first + generating.rows, count))
        try:
            with torch.no_grad():
                x = sample(
                    model.denoiser,
                    SCHEDULE,
                    (len(rows), *shape),
                    solver=generating.solver,
                    steps=generating.steps,
                    seed=generating.seed,
                    samples=rows,
                    device=device,
                )
        except FloatingPointError as error:
            raise InputError(f"sampling diverged: {error}; expected another solver or more steps.") from None
        out[first : rows.stop] = model.units.data((x.double().cpu().numpy() + 1) / 2)
        if report is not None:
            report(rows.stop, count)
    return out


def best_steps(
    model: PaDTS, windows: Array, candidates: Sequence[int] = (10, 20, 50), *, count: int = 500, seed: int = 0
) -> int:
    """The number of steps whose windows have the lowest FDDS against training ``windows``, in data units.

    ``count`` windows are drawn for each of the ``candidates``, by `Generating`'s solver. A model of one series has no
    correlations to go by: the largest is taken.
    """
    if model.config.features < 2:
        return max(candidates)
    real = model.units.unit(windows)
    scores = [
        fdds(real, model.units.unit(generate(model, count, Generating(steps, seed=seed)))) for steps in candidates
    ]
    return candidates[scores.index(min(scores))]


# --- training -----------------------------------------------------------------------------------------------


def loss(objective: Objective, network: Network, x0: Tensor, noise: Noise) -> Tensor:
    """The objective on a batch of windows ``[batch, length, features]`` in model units, a scalar."""
    t = objective.times(noise.uniform(x0.new_empty(len(x0)), draw=0))
    alpha, sigma = (expand(scale, x0) for scale in SCHEDULE(t))
    x = alpha * x0 + sigma * noise.normal(x0, draw=1)
    return objective.error(x0, network(x, t))


@dataclass(frozen=True, eq=False)
class Batches:
    """Sample numbers -> windows in model units, each once an epoch. ``windows``: float32 ``[n, length, features]``."""

    windows: Tensor
    seed: int = 0

    def __call__(self, samples: Sequence[int]) -> Tensor:
        return self.windows[torch.from_numpy(Shuffle(len(self.windows), self.seed)(samples))]


def recipe(
    out: Path,
    *,
    steps: int,
    batch: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    precision: Literal["no", "bf16", "fp16"] = "no",
    device: Literal["auto", "cpu"] = "auto",
    tracker: Literal["tensorboard"] | None = None,
) -> TrainConfig:
    """How PaD-TS is trained, in the directory ``out``; `InputError` for a value out of its range.

    The published batch; AdamW whose rate falls by a cosine after a short warm-up; the weights are averaged.
    """
    return TrainConfig(
        out=out,
        steps=steps,
        batch_size=batch,
        lr=lr,
        warmup=min(100, steps // 10),
        ema=0.99,
        precision=precision,
        seed=seed,
        save_every=250,
        tracker=tracker,
        device=device,
    )


def fit(
    config: PaDTSConfig,
    windows: Array,
    units: Units,
    settings: TrainConfig,
    objective: Objective | None = None,
    facts: Mapping[str, Any] | None = None,
) -> PaDTS:
    """Train on windows ``[n, length, features]`` in data units, write ``out/model``, and return it, frozen, on the CPU.

    ``objective``: `Population()` unless given. ``facts``: kept with the model. A run that was stopped goes on; see
    `degauss.core.train` for what it raises.
    """
    objective = Population() if objective is None else objective
    if isinstance(objective, Population) and objective.weight and config.features < 2:
        raise InputError("the population loss compares pairs of series, but there is 1; expected 2, or weight 0.")
    model = PaDTS.new(config, units, facts, settings.seed)
    data = Batches(torch.from_numpy(2 * units.unit(windows) - 1).float(), settings.seed)
    result = train(model.network, partial(loss, objective), data, settings)
    model.save(settings.out / "model", result.weights)
    return PaDTS.load(settings.out / "model")
