r"""Repair of long records with CSDI: holes of whole features or whole spans, filled along paths without seams.

**Training.** A recording loses a channel, or all channels for a while, and hardly ever single values. So in training
each window gets one hole, an interval of time in a choice of features. With u, v, w ~ U(0, 1),

    start = max(0, 2u - 1),  end = start + (1 - start) min(1, 2v),  share = min(1, 4 w^2 / 3):

half of the holes begin with the window and half end with it, a quarter of them thus last for all of it; each feature
is in the hole with probability ``share``, and one always is. The loss is that of CSDI, the squared error of the
predicted noise, over the hole.

**Sampling.** A hole longer than a window is filled from the left. A window begins a quarter of its length before the
first value that is not there yet, and knows what was drawn before it as it knows what was observed. Its last quarter
is drawn for the sake of what follows, and drawn again by the next window. Each sample is therefore one path however
long the hole, drawn from its law given everything known as far as windows reach, and memory is that of one window.

Reference: the targets replace the "random strategy" of Tashiro et al. 2021, "CSDI: Conditional Score-based Diffusion
Models for Probabilistic Time Series Imputation" (NeurIPS), section 4.3, which lets a strategy follow the missing
pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from degauss.core.errors import InputError
from degauss.core.files import atomic_path, read_json, write_json
from degauss.core.noise import Noise
from degauss.core.sampling import sample
from degauss.core.train import TrainConfig, train
from degauss.timeseries.csdi import CSDI, Batch, Imputing, trained_times, units_of
from degauss.timeseries.csdi_net import CSDIConfig
from degauss.timeseries.csdi_training import RandomStretches

Array = NDArray[np.float64]
DATA = "data.json"

# --- training -----------------------------------------------------------------------------------------------


def holes(like: Tensor, noise: Noise) -> Tensor:
    """One hole for each window, 1 where hidden; in the shape of ``like``, ``[batch, length, features]``."""
    length = like.shape[1]
    u, v, w = noise.uniform(like.new_empty(len(like), 3), draw=0).T
    start = (2 * u - 1).clamp(min=0)
    end = start + (1 - start) * (2 * v).clamp(max=1)
    place = torch.arange(length, device=like.device)
    first = (start * length).floor()[:, None]
    inside = (place >= first) & ((place < end[:, None] * length) | (place == first))
    of_feature = noise.uniform(like[:, 0], draw=1)
    share = (4 * w**2 / 3)[:, None]
    chosen = (of_feature < share) | (of_feature == of_feature.amin(1, keepdim=True))
    return (inside[:, :, None] & chosen[:, None]).to(like.dtype)


def loss(model: CSDI, network: nn.Module, batch: Batch, noise: Noise) -> Tensor:
    """The mean squared error of the predicted noise over a window's hole, at a random step of T; ``[batch]``."""
    values, seen = batch
    u = noise.uniform(values.new_empty(len(values), 1), draw=2)[:, 0]
    t = torch.floor(u * model.config.steps).add(1) / model.config.steps
    target = seen * holes(values, noise)
    mask = seen - target
    eps = noise.normal(values, draw=3)
    alpha, sigma = (scale.to(values.dtype)[:, None, None] for scale in model.schedule(t))
    error = (network(alpha * values + sigma * eps, t, values, mask) - eps) ** 2 * target
    return error.sum((1, 2)) / target.sum((1, 2)).clamp(min=1)


def learn(
    config: CSDIConfig, records: Sequence[Array], settings: TrainConfig, names: Sequence[str] = (), step: str = ""
) -> CSDI:
    """Train on records ``[n, features]``, NaN where nothing is known, and return the model, frozen, on the CPU.

    It is written to ``out/model``. A run that was stopped goes on, and one that was finished is only read. Raises
    `InputError` if the run was of other data, and what `degauss.core.train` raises.
    """
    model = CSDI.new(config, units_of(np.concatenate(records), names, step), settings.seed)
    stretches = RandomStretches(records, model, settings.seed)
    centre, width = model.units.centre.tolist(), model.units.width.tolist()
    about = {"names": list(names), "step": step, "centre": centre, "width": width}
    data = settings.out / DATA
    if not data.exists():
        with atomic_path(data) as partial_data:
            write_json(partial_data, about)
    elif read_json(data) != about:
        raise InputError(f"{settings.out}: holds a model of other data; expected a new directory for this one.")
    result = train(model.network, partial(loss, model), stretches, settings)
    model.save(settings.out / "model", result.weights)
    return CSDI.load(settings.out / "model")


# --- sampling -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Record:
    """``read(start, stop)``: rows of a record, ``[stop - start, features]``, NaN wherever nothing is known.

    ``wanted``: what is to be filled in, ``[n, features]``; the rest of the NaN is not.
    """

    read: Callable[[int, int], Array]
    wanted: NDArray[np.bool_]


class Piece(NamedTuple):
    """Rows of a record from ``start`` on, in every sample: ``[samples, rows, features]``, none of them NaN."""

    start: int
    samples: Array


def paths(
    model: CSDI,
    record: Record,
    imputing: Imputing,
    number: int = 0,
    report: Callable[[int], None] | None = None,
) -> Iterator[Piece]:
    """Sample paths of everything that is wanted of a record, piece by piece from its start to its end.

    ``number`` is that of the record's first row among all rows of all records; with the seed it decides the
    randomness. ``report`` is told how many of the rows with holes are done. What is known is in every sample as it
    is. Raises `InputError` if sampling diverges.
    """
    length, count = model.config.length, len(record.wanted)
    rows = np.flatnonzero(record.wanted.any(1))
    start = end = done = 0
    drawn = np.empty((imputing.samples, 0, model.config.features))
    while done < len(rows):
        first = int(rows[done])
        before, known_until = start, end
        start = max(0, min(first - length // 4, count - length))
        stop = min(start + length, count)
        # A record shorter than a window is one whose end is missing.
        window = np.full((length, model.config.features), np.nan)
        window[: stop - start] = record.read(start, stop)
        given = np.repeat(window[None], imputing.samples, axis=0)
        if known_until > start:
            given[:, : known_until - start] = drawn[:, start - before : known_until - before]
        drawn = _window(model, given, imputing, number + start)
        end = count if stop == count else start + max(length - length // 4, first - start + 1)
        yield Piece(first, drawn[:, first - start : end - start])
        done = int(np.searchsorted(rows, end))
        if report is not None:
            report(done)


def _window(model: CSDI, given: Array, imputing: Imputing, number: int) -> Array:
    """One sample for each row of ``given`` ``[samples, length, features]``, all NaN in the same places."""
    device = next(model.network.parameters()).device
    known, mask = (part.to(device) for part in model.batch(given))
    drawn = np.empty_like(given)
    with torch.no_grad():
        for first in range(0, len(given), imputing.rows):
            rows = range(first, min(first + imputing.rows, len(given)))
            try:
                x = sample(
                    model.given(known[rows.start : rows.stop], mask[:1]),
                    model.schedule,
                    (len(rows), *given.shape[1:]),
                    solver=imputing.solver,
                    steps=imputing.steps,
                    grid=trained_times(model.config.steps, imputing.steps),
                    seed=imputing.seed,
                    samples=[(number << 20) + row for row in rows],
                    device=device,
                )
            except FloatingPointError as error:
                raise InputError(f"sampling diverged: {error}; expected another solver or more steps.") from None
            drawn[rows.start : rows.stop] = x.double().cpu().numpy() * model.units.width + model.units.centre
    return np.where(np.isnan(given), drawn, given)
