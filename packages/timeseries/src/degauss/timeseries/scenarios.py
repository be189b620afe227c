"""Forecasts with half of the context missing, three ways, from one checkpoint that was trained for none of them.

    RM      values missing at random
    BM-B    a block missing at the beginning of the context
    BM-E    a block missing at its end, next to the forecast

A mask is ``[context]``, True where a value is hidden. Only the context is hidden from: what lies before it, and is seen
through lags, stays, as in the paper; a lag that falls into the context is hidden with it. The scale of a window is that
of what is left.

Reference: Kollovieh et al. 2023, "Predict, Refine, Synthesize" (TSDiff), section 4.1 and its appendix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from degauss.core.errors import check_range
from degauss.core.noise import Noise
from degauss.timeseries import metrics, naive
from degauss.timeseries.forecasting import Report, forecast
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Sampling, TSDiff

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def random_missing(context: int, missing: int, noise: Noise) -> Mask:
    """RM: ``missing`` of ``context`` values, every set of them as likely, ``[windows, context]``.

    A window's set follows from the seed and the sample id of its row of ``noise`` alone.
    """
    check_range("missing", missing, 0, context)
    u = noise.uniform(torch.empty(len(noise.samples), context, dtype=torch.float64)).numpy()
    rank = np.argsort(np.argsort(u, axis=1, kind="stable"), axis=1, kind="stable")
    return rank < missing


def block_at_start(context: int, missing: int, noise: Noise) -> Mask:
    """BM-B: the first ``missing`` of ``context`` values, ``[windows, context]``."""
    check_range("missing", missing, 0, context)
    return np.broadcast_to(np.arange(context) < missing, (len(noise.samples), context))


def block_at_end(context: int, missing: int, noise: Noise) -> Mask:
    """BM-E: the last ``missing`` of ``context`` values, ``[windows, context]``."""
    check_range("missing", missing, 0, context)
    return np.broadcast_to(np.arange(context) >= context - missing, (len(noise.samples), context))


Scenario = Callable[[int, int, Noise], Mask]

SCENARIOS: Mapping[str, Scenario] = {"RM": random_missing, "BM-B": block_at_start, "BM-E": block_at_end}
"""By the paper's names."""


def hide(record: Regular, mask: Mask) -> Regular:
    """The record without the values of its last ``len(mask)`` that the mask hides; gaps it had stay gaps."""
    if len(mask) > len(record.values):
        raise ValueError(f"a mask of {len(mask)} does not fit a record of {len(record.values)} values")
    values = record.values.copy()
    values[len(values) - len(mask) :][mask] = np.nan
    return replace(record, values=values)


def hidden(records: Sequence[Regular], context: int, missing: int, scenario: Scenario, seed: int = 0) -> list[Regular]:
    """The records under a scenario, record k with the k-th mask of the seed."""
    masks = scenario(context, missing, Noise(seed, range(len(records))))
    return [hide(record, mask) for record, mask in zip(records, masks, strict=True)]


def with_gaps(
    model: TSDiff, records: Sequence[Regular], horizon: int, sampling: Sampling, report: Report | None = None
) -> list[Array]:
    """`forecast` of records of which less is seen than the model was trained to expect; one value is enough."""
    modest = replace(model, config=replace(model.config, min_context=1))
    return forecast(modest, records, horizon, sampling, report)


def loss(target: Array, samples: Sequence[Array]) -> float:
    """Mean weighted quantile loss of forecasts ``[draws, horizon]`` of each row of ``target [records, horizon]``."""
    return metrics.mean_weighted_quantile_loss(target, metrics.sample_quantiles(np.stack(samples, axis=1)))


def last_values(records: Sequence[Regular], horizon: int) -> list[Array]:
    """The last value still seen of each record, as a forecast ``[1, horizon]``: what a scenario leaves for nothing."""
    return [naive.last_value(record.values, horizon)[None] for record in records]
