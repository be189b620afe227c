r"""Refining: anybody's forecasts, made more like the series by the density that a TSDiff model has learnt.

Let y~ be a window of what was observed and what somebody forecast. It is improved by steps down the energy

    E(y; y~) = -log p(y) + strength R(y, y~),

where the model's loss at one representative noise level stands for -log p(y),

    -log p(y) ~ ||eps - eps_hat(alpha y + sigma eps, tau)||^2,      eps ~ N(0, I) anew at every step,
    tau = argmin_t (L_t - mean_t L_t)^2,      L_t the mean loss at step t of 1 .. T,

and R keeps y near y~: the squared distance from what was observed, the forecast left free ("mean-square"), or the
quantile loss of everything, forecast included, in which draw i of S holds to the level i / (S + 1) ("quantile").
So the draws of a forecast are sorted before they start: draw i begins at its own level. The steps are

    y <- y - eta grad E(y) + sqrt(2 eta) gamma xi,      xi ~ N(0, I),

Langevin Monte Carlo for gamma > 0 and maximum likelihood for gamma = 0. The paper prints sqrt(2 eta gamma), its code
has gamma outside the root, as here; the root of a printed gamma is this gamma.

No reverse diffusion is run: twenty steps cost twenty evaluations and their gradients. Whether a forecast is better
for it must be tried: `judge` does so on the past.

Reference: Kollovieh et al. 2023, "Predict, Refine, Synthesize" (TSDiff), section 3.3, and its published code for
the step sizes (0.1; 0.01 for the exchange rates), gamma 0.1, 20 steps and strength 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_option, check_range
from degauss.core.guide.loss import loss_gradient
from degauss.core.guide.observation import Energy, MeanSquare, Quantile, quantile_levels
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import DiscreteVP, Schedule
from degauss.timeseries import metrics, naive
from degauss.timeseries.backtest import Cut
from degauss.timeseries.forecasting import check_horizon, check_observed
from degauss.timeseries.regular import Regular, season_length
from degauss.timeseries.tsdiff import (
    Likelihood,
    TSDiff,
    Windows,
    sample_id,
    windows_of,
)
from degauss.timeseries.windows import tail

Array = NDArray[np.float64]
Report = Callable[[int, int], None]


# --- the method ---------------------------------------------------------------------------------------------


class Level(NamedTuple):
    """The noise level at which the model is asked."""

    t: Tensor
    alpha: float
    sigma: float


@dataclass(frozen=True)
class Langevin:
    """A kernel: y <- y - step_size grad E(y) + sqrt(2 step_size) gamma xi, in the units of x0.

    ``regulariser``: R by entry, with y~ inside. ``time``: t of tau. Steps count; the times of the grid do not matter.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    regulariser: Energy
    time: float
    step_size: float = 0.1
    gamma: float = 0.1
    strength: float = 1.0

    def init(self, x: Tensor, grid: Tensor, /) -> Level:
        del grid
        t = torch.tensor(self.time, dtype=torch.float64)
        alpha, sigma = self.schedule(t)
        return Level(t.to(x.device), float(alpha), float(sigma))

    def step(self, carry: Level, x: Tensor, i: int, noise: Noise, /) -> tuple[Level, Tensor]:
        eps = noise.normal(x, 2 * i)

        def energy(y: Tensor) -> Tensor:
            return (eps - self._predicted(carry, y, eps)) ** 2 + self.strength * self.regulariser(y)

        gradient = loss_gradient(_itself, energy, x, carry.t, {}).gradient
        x = torch.add(x, gradient, alpha=-self.step_size)
        if self.gamma > 0:
            x = torch.add(x, noise.normal(x, 2 * i + 1), alpha=math.sqrt(2 * self.step_size) * self.gamma)
        return carry, x

    def _predicted(self, level: Level, y: Tensor, eps: Tensor) -> Tensor:
        x = level.alpha * y + level.sigma * eps
        return (x - level.alpha * self.denoiser(x, level.t).mean) / level.sigma


def _itself(y: Tensor, t: Tensor, /, **cond: Any) -> Point:
    """A denoiser that changes nothing, so that a loss of the mean is a loss of the state."""
    del t, cond
    return Point(y)


def losses_by_step(denoiser: Denoiser[Point], schedule: DiscreteVP, x0: Tensor, seen: Tensor, noise: Noise) -> Tensor:
    """L_t for t = 1 .. T, ``[T]``: the mean square error of the predicted noise over the entries seen.

    ``x0``, ``seen``: ``[batch, *event]``. All steps see the same noise, so that they differ by their level alone.
    """
    eps = noise.normal(x0)
    losses: list[Tensor] = []
    with torch.no_grad():
        for step in range(1, schedule.steps + 1):
            t = torch.tensor(step / schedule.steps, dtype=torch.float64, device=x0.device)
            alpha, sigma = (scale.to(x0.dtype) for scale in schedule(t))
            x = alpha * x0 + sigma * eps
            predicted = (x - alpha * denoiser(x, t).mean) / sigma
            losses.append(((eps - predicted) ** 2 * seen).sum() / seen.sum())
    return torch.stack(losses)


def representative_step(model: TSDiff, windows: Windows, seed: int = 0) -> int:
    """tau, the step of 1 .. T whose loss on these windows is nearest to the mean over all steps."""
    windows = windows.to(next(model.network.parameters()).device)
    x0, seen = model.channels(windows, model.scale(windows))
    losses = losses_by_step(model.denoiser, model.schedule, x0, seen, Noise(seed, range(len(x0))))
    return int((losses - losses.mean()).abs().argmin()) + 1


def spread_out(model: TSDiff, series: Sequence[Array], count: int = 32) -> Windows:
    """About ``count`` windows, evenly over the series and over the time of each."""
    config = model.config
    some = series[:: -(-len(series) // count)]
    rows: list[Array] = []
    for values in some:
        ends = np.linspace(min(config.length, len(values)), len(values), max(count // len(some), 1))
        rows += [tail(values[:end], config.reach + config.length) for end in np.unique(ends.astype(np.int64))]
    return windows_of(np.stack(rows))


def matched(samples: Array, count: int) -> Array:
    """``count`` draws at the levels i / (count + 1) of samples ``[draws, n]``; as many draws are only sorted.

    A single draw is repeated, as the paper does with point forecasts.
    """
    levels = np.arange(1, count + 1) / (count + 1)
    return np.quantile(samples, levels, axis=0, method="weibull")


# --- forecasts of records -----------------------------------------------------------------------------------


class Case(NamedTuple):
    """A forecast ``samples [draws, n]`` of what follows ``record.values[:cutoff]``, in the record's units."""

    record: Regular
    cutoff: int
    samples: Array

    @property
    def target(self) -> Array:
        """What came to be, ``[n]``; NaN where it is not known."""
        after = self.record.values[self.cutoff : self.cutoff + self.samples.shape[1]]
        return np.concatenate([after, np.full(self.samples.shape[1] - len(after), np.nan)])


@dataclass(frozen=True)
class Refining:
    """How forecasts are refined; the defaults are the published ones.

    ``samples``: draws of each refined forecast. ``likelihood``: which R. ``gamma``: size of the Langevin noise, 0 for
    maximum likelihood. ``step_size``: eta, which has to be smaller the more regular the series is. ``rows``: draws
    refined at once.
    """

    samples: int = 100
    likelihood: Likelihood = "quantile"
    gamma: float = 0.1
    step_size: float = 0.1
    iterations: int = 20
    strength: float = 1.0
    seed: int = 0
    rows: int = 100

    def __post_init__(self) -> None:
        for name in ("samples", "iterations", "rows"):
            check_range(name, getattr(self, name), 1)
        for name in ("gamma", "strength"):
            check_range(name, getattr(self, name), 0)
        check_range("step_size", self.step_size, 0)
        check_option("likelihood", self.likelihood, ("quantile", "mean-square"))


def refine(
    model: TSDiff, cases: Sequence[Case], step: int, refining: Refining, report: Report | None = None
) -> list[Array]:
    """The refined draws ``[samples, n]`` of each forecast, in its units; they depend on nothing after its cutoff.

    ``step``: tau, see `representative_step`. A case's randomness follows from the seed, the name of its record and its
    cutoff. Raises `InputError` for a forecast longer than the model's horizon, for one with too little history before
    it, and where the steps diverge.
    """
    config = model.config
    for record, cutoff, samples in cases:
        check_horizon(model, samples.shape[1])
        check_observed(model, record.name, record.values[:cutoff])
    device = next(model.network.parameters()).device
    count, known = refining.samples, config.reach + config.context
    past = np.stack([tail(case.record.values[: case.cutoff], known) for case in cases])
    future = np.full((len(cases), count, config.horizon), np.nan)
    for row, case in zip(future, cases, strict=True):
        row[:, : case.samples.shape[1]] = matched(case.samples, count)
    ids = [sample_id(f"{case.record.name}|{case.cutoff}", draw) for case in cases for draw in range(count)]
    out = np.empty((len(ids), config.horizon))
    levels = quantile_levels(count, len(cases))
    for first in range(0, len(ids), refining.rows):
        rows = np.arange(first, min(first + refining.rows, len(ids)))
        case, draw = np.divmod(rows, count)
        windows = windows_of(np.concatenate([past[case], future[case, draw]], 1)).to(device)
        noise = Noise(refining.seed, ids[first : first + len(rows)])
        out[rows] = _refined(model, windows, levels[rows].to(device), step, refining, noise)
        if report is not None:
            report(first + len(rows), len(ids))
    return [row[:, : case.samples.shape[1]] for row, case in zip(out.reshape(future.shape), cases, strict=True)]


def _refined(
    model: TSDiff, windows: Windows, levels: Tensor, step: int, refining: Refining, noise: Noise
) -> NDArray[np.float64]:
    """The last ``horizon`` values of windows that hold a forecast there, refined."""
    config = model.config
    scale = model.scale(windows)
    x0, given = model.channels(windows, scale)
    if refining.likelihood == "quantile":
        regulariser = Quantile(x0, given, levels.to(x0))
    else:
        observed = windows.seen.clone()
        observed[:, config.reach + config.context :] = 0
        regulariser = MeanSquare(x0, model.channels(windows._replace(seen=observed), scale)[1])
    kernel = Langevin(
        model.denoiser,
        model.schedule,
        regulariser,
        step / config.steps,
        refining.step_size,
        refining.gamma,
        refining.strength,
    )
    with torch.no_grad():
        y = simulate(kernel, x0, torch.linspace(1, 0, refining.iterations + 1, dtype=torch.float64), noise)
    values = (y[..., 0].double() * scale.width + scale.centre)[:, config.context :]
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"refining diverged at a step_size of {refining.step_size:g}; expected a smaller one.")
    return values.cpu().numpy()


# --- does it help? ------------------------------------------------------------------------------------------


class Judgement(NamedTuple):
    """The CRPS (mean weighted quantile loss) of forecasts of ``cases`` past windows: as given, refined, and taken
    through the same steps without the model, which spread equal draws apart and so help point forecasts by themselves.
    """

    given: float
    refined: float
    without: float
    cases: int
    what: str

    @property
    def helps(self) -> bool:
        """Whether the model lowers the score, and the steps with it; False where there is none."""
        return self.refined < min(self.given, self.without)

    def verdict(self) -> str:
        """One sentence with the scores."""
        windows = f"{self.cases} past window{'s' if self.cases > 1 else ''}"
        said = "lowers" if self.helps else "does not lower"
        return (
            f"Refining {said} the CRPS (mean weighted quantile loss) of {self.what}: {self.refined:.4g} refined, "
            f"{self.given:.4g} as given, {self.without:.4g} by the same steps without the model, on {windows}."
        )


def judge(
    cases: Sequence[Case], refined: Sequence[Array], without: Sequence[Array], what: str = "these forecasts"
) -> Judgement:
    """Score refined forecasts of the past beside what they were and those refined `without_model`.

    ``what``: their name in the verdict.
    """
    given = [matched(case.samples, len(drawn)) for case, drawn in zip(cases, refined, strict=True)]
    return Judgement(loss(cases, given), loss(cases, refined), loss(cases, without), len(cases), what)


def without_model(model: TSDiff) -> TSDiff:
    """The control: refining by this one follows the regulariser and the noise alone."""
    return replace(model, network=cast("Any", _Ignorant()))


class _Ignorant(nn.Module):
    """A network that predicts no noise at all: its energy is the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        del t
        return 0 * x


def loss(cases: Sequence[Case], samples: Sequence[Array]) -> float:
    """Mean weighted quantile loss of samples ``[draws, n]`` of each case, over all of them together."""
    quantiles = np.concatenate([metrics.sample_quantiles(drawn) for drawn in samples], axis=1)
    return metrics.mean_weighted_quantile_loss(np.concatenate([case.target for case in cases]), quantiles)


def stand_ins(found: Sequence[Cut], horizon: int, draws: int) -> tuple[str, list[Case]]:
    """Naive forecasts at these cutoffs, of the kind that did better there, with its name.

    For judging forecasts that come without a past of their own. One draw: the bare last value or seasonal naive, which
    stand in for point forecasts; several: with the quantiles of their past errors, for those with a spread.
    """
    methods: dict[str, list[Case]] = {"the last value": [], "the seasonal naive": []}
    for cut in found:
        history, season = cut.history.values, season_length(cut.record.step)
        if draws == 1:
            rows = naive.last_value(history, horizon)[None], naive.seasonal_naive(history, horizon, season)[None]
        else:
            rows = (
                naive.last_value_ensemble(history, horizon, draws),
                naive.seasonal_naive_ensemble(history, horizon, season, draws),
            )
        for cases, samples in zip(methods.values(), rows, strict=True):
            cases.append(Case(cut.record, cut.index, samples))
    best = min(methods, key=lambda name: loss(methods[name], [case.samples for case in methods[name]]))
    return best, methods[best]
