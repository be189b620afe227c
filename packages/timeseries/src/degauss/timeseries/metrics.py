"""Scores of point and probabilistic forecasts, and what each is called elsewhere.

Arrays: `target [..., n]` with NaN where nothing was observed (those entries count nowhere), `samples
[draws, ..., n]`, `quantiles [levels, ..., n]` at ascending `levels` in (0, 1), intervals as `lower` and
`upper [..., n]`. Everything is in the unit of the data unless it is a ratio, and smaller is better except
for coverage and PIT. Forecasts must be finite wherever the target is observed. A score of nothing (no
observed target, or a zero denominator) is NaN.

Two different numbers are called CRPS in the papers; they are not to be mixed:

* `mean_weighted_quantile_loss` at 0.1 ... 0.9: GluonTS's `mean_wQuantileLoss`, "CRPS" in TSDiff and
  DeepAR.
* `csdi_quantile_loss` at 0.05 ... 0.95 with interpolated quantiles: "CRPS" in CSDI and what follows it.

`crps` is the real one, in the unit of the data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
VENTILES = tuple(i / 20 for i in range(1, 20))
INTERVALS = (0.5, 0.8, 0.9)


def sample_quantiles(samples: Array, levels: Sequence[float] = DECILES) -> Array:
    """Order statistics `[levels, ..., n]` of `samples [draws, ..., n]`, as GluonTS's SampleForecast has them.

    Level q is the sorted sample number round((draws - 1) q), halves to even, without interpolation.
    """
    ordered = np.sort(samples, axis=0)
    rows = np.round((len(ordered) - 1) * np.asarray(levels, dtype=np.float64)).astype(np.int64)
    return ordered[rows]


def pinball(target: Array, quantiles: Array, levels: Sequence[float] = DECILES) -> Array:
    """Pinball loss `[levels, ..., n]`: (y - f) q where y >= f, else (f - y)(1 - q); NaN where y is NaN.

    Koenker & Bassett 1978. (GluonTS and CSDI sum twice this.)
    """
    level = np.asarray(levels, dtype=np.float64).reshape(-1, *(1,) * np.ndim(target))
    error = target - quantiles
    return np.maximum(level * error, (level - 1) * error)


def mean_weighted_quantile_loss(target: Array, quantiles: Array, levels: Sequence[float] = DECILES) -> float:
    """Mean over levels of 2 sum pinball / sum |y|, the sums over all series and times together.

    Equal to GluonTS's `mean_wQuantileLoss`; what TSDiff (Kollovieh et al. 2023) and DeepAR tables print as
    CRPS. Take `quantiles` from `sample_quantiles`.
    """
    losses = np.nansum(pinball(target, quantiles, levels), axis=tuple(range(1, np.ndim(target) + 1)))
    return _ratio(2 * float(losses.mean()), float(np.nansum(np.abs(target))))


def csdi_quantile_loss(target: Array, samples: Array) -> float:
    """The weighted quantile loss at 0.05, ..., 0.95, with linearly interpolated sample quantiles.

    What CSDI (Tashiro et al. 2021) and the imputation papers after it print as CRPS. `target` holds NaN
    everywhere but at the entries that were held out for scoring.
    """
    quantiles = np.quantile(samples, VENTILES, axis=0)
    return mean_weighted_quantile_loss(target, quantiles, VENTILES)


def crps(target: Array, samples: Array) -> Array:
    """CRPS `[..., n]` of the empirical distribution of the samples; NaN where the target is.

    CRPS = E|X - y| - E|X - X'|/2 (Gneiting & Raftery 2007, eq. 21), the second term from the sorted samples:
    sum_ij |x_i - x_j| = 2 sum_i (2i - m - 1) x_(i), i = 1 .. m. O(m log m) in the number of samples m.
    """
    count = len(samples)
    weights = (2 * np.arange(1, count + 1) - count - 1) / count**2
    spread = np.tensordot(weights, np.sort(samples, axis=0), axes=1)
    return np.abs(samples - target).mean(axis=0) - spread


def nd(target: Array, point: Array) -> float:
    """Normalised deviation: sum |y - f| / sum |y|."""
    return _ratio(float(np.nansum(np.abs(target - point))), float(np.nansum(np.abs(target))))


def mase(target: Array, point: Array, history: Array, season: int) -> Array:
    """Mean absolute scaled error `[...]`, one for each series (Hyndman & Koehler 2006).

    mean |y - f| over the horizon `target [..., n]`, divided by the mean |h_t - h_(t - season)| of the series'
    own `history [..., m]`; pairs with a NaN are left out. NaN for a history without such a change.
    """
    if season < 1:
        raise ValueError(f"season must be at least 1, got {season}")
    change = np.abs(history[..., season:] - history[..., :-season])
    return _ratios(_nanmean(np.abs(target - point)), _nanmean(change))


def coverage(target: Array, lower: Array, upper: Array) -> float:
    """Share of the observed targets inside [lower, upper]; best when equal to the level of the interval."""
    seen = ~np.isnan(target)
    inside = (target >= lower) & (target <= upper) & seen
    return _ratio(float(inside.sum()), float(seen.sum()))


def winkler(target: Array, lower: Array, upper: Array, level: float) -> float:
    """Mean interval score: the width, plus 2/(1 - level) times the distance of a target outside it.

    Winkler 1972; Gneiting & Raftery 2007, eq. 43, with alpha = 1 - level.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    outside = np.maximum(lower - target, 0) + np.maximum(target - upper, 0)  # NaN where the target is
    return float(_nanmean((upper - lower + 2 / (1 - level) * outside).reshape(-1)))


def interval(samples: Array, level: float) -> tuple[Array, Array]:
    """The central interval of the samples `[draws, ..., n]`: quantiles (1 - level)/2 and (1 + level)/2."""
    lower, upper = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return lower, upper


def pit(target: Array, samples: Array) -> Array:
    """Probability integral transform: the rank of each observed target among its samples, in (0, 1), flat.

    (number below + half the number equal + 1/2) / (draws + 1), uniform for a calibrated forecast.
    """
    seen = ~np.isnan(target)
    draws, observed = samples[:, seen], target[seen]
    below = (draws < observed).sum(axis=0) + 0.5 * (draws == observed).sum(axis=0)
    return (below + 0.5) / (len(samples) + 1)


def pit_distance(values: Array) -> float:
    """Kolmogorov-Smirnov distance of PIT values `[n]` from uniform, sup |F_n(u) - u|: 0 is calibrated, 1 the worst.

    Ranks among m draws are m + 1 different values, so about 1/(2m) remains of a forecast that is calibrated.
    """
    ordered = np.sort(values[~np.isnan(values)])
    if not len(ordered):
        return float("nan")
    steps = np.arange(len(ordered) + 1) / len(ordered)
    return float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))


def evaluate(target: Array, samples: Array, history: Array, season: int) -> dict[str, float]:
    """All scores of one forecast `samples [draws, n]` of `target [n]`, by name.

    `history [m]` and `season` scale the MASE. Point scores use the median, the optimal point for an
    absolute error.
    """
    return evaluate_all([target], [samples], [history], [season])


def evaluate_all(
    targets: Sequence[Array], samples: Sequence[Array], histories: Sequence[Array], seasons: Sequence[int]
) -> dict[str, float]:
    """All scores of several forecasts together, by name: windows of a backtest, of one series or of many.

    Sums and means run over all observed targets together, as in GluonTS's aggregate; only the MASE is a mean of
    one number a forecast, over those that have one. All must have the same number of draws.
    """
    target, drawn = np.concatenate(list(targets)), np.concatenate(list(samples), axis=1)
    quantiles = sample_quantiles(drawn)
    middle = DECILES.index(0.5)
    median = quantiles[middle]
    scaled = [
        mase(*one)
        for one in zip(targets, (sample_quantiles(s)[middle] for s in samples), histories, seasons, strict=True)
    ]
    scores = {
        "mean_weighted_quantile_loss": mean_weighted_quantile_loss(target, quantiles),
        "csdi_quantile_loss": csdi_quantile_loss(target, drawn),
        "crps": float(_nanmean(crps(target, drawn))),
        "mase": float(_nanmean(np.array(scaled, dtype=np.float64))),
        "nd": nd(target, median),
    }
    for level in INTERVALS:
        lower, upper = interval(drawn, level)
        scores[f"coverage_{level * 100:.0f}"] = coverage(target, lower, upper)
        scores[f"winkler_{level * 100:.0f}"] = winkler(target, lower, upper, level)
    return scores


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else float("nan")


def _ratios(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _nanmean(values: Array) -> Array:
    """Mean over the last axis without the NaN; NaN, silently, where nothing is left."""
    seen = ~np.isnan(values)
    return _ratios(np.where(seen, values, 0.0).sum(axis=-1), seen.sum(axis=-1).astype(np.float64))
