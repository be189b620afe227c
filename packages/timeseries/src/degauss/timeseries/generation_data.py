r"""Windows to generate more of: from people's tables, and the two public sets of the papers.

A *record* is what was measured together over time, ``[n, features]`` with NaN in its gaps: one machine, one patient,
or a whole wide table. Windows are stretches of ``length`` rows without a gap, from every start.

**Held out.** Neighbouring windows share almost all their rows, so windows drawn at random would be no test. With five
records or more, whole records are held out; with fewer, blocks of rows, spread evenly over each record. No row of a
held-out window is in a training window.

**Units.** Each feature is scaled by its smallest and largest value in the training windows,

    unit = (value - low) / (high - low) in [0, 1],    model = 2 unit - 1 in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from degauss.core.errors import InputError, check_range
from degauss.core.noise import Noise
from degauss.core.places import data_root
from degauss.core.train import Shuffle

Array = NDArray[np.float64]

_WHOLE_RECORDS = 5
_BLOCKS = 5
STOCKS = ("Open", "High", "Low", "Close", "Adj_Close", "Volume")


class Split(NamedTuple):
    """Windows ``[n, length, features]`` in data units."""

    train: Array
    held: Array


@dataclass(frozen=True, eq=False)
class Units:
    """The scales of the features, by ``low`` and ``high`` ``[features]``, and their ``names``."""

    low: Array
    high: Array
    names: tuple[str, ...]

    @classmethod
    def of(cls, windows: Array, names: Sequence[str]) -> Units:
        """From training windows ``[n, length, features]``. A feature that is constant has a width of 1."""
        low, high = windows.min((0, 1)), windows.max((0, 1))
        # Numbers this close cannot be told apart once they are scaled.
        flat = high - low <= 1e-9 * np.maximum(np.abs(low), np.abs(high))
        return cls(low, np.where(flat, low + 1, high), tuple(names))

    def unit(self, values: Array) -> Array:
        """Data units -> [0, 1] on what the scales come from."""
        return (values - self.low) / (self.high - self.low)

    def data(self, unit: Array) -> Array:
        """The inverse of ``unit``."""
        return self.low + unit * (self.high - self.low)


def windows_of(records: Sequence[Array], length: int) -> Array:
    """Every stretch of ``length`` rows without a gap: ``[n, length, features]``, n = 0 where there is none."""
    features = records[0].shape[1]
    parts = [np.empty((0, length, features))]
    for record in records:
        if len(record) >= length:
            stretches = np.lib.stride_tricks.sliding_window_view(record, length, axis=0).transpose(0, 2, 1)
            parts.append(stretches[~np.isnan(stretches).any((1, 2))])
    return np.concatenate(parts)


def split(records: Sequence[Array], length: int, share: float = 0.2, seed: int = 0) -> Split:
    """Training and held-out windows, of about the given share of the rows; see the module.

    Raises `InputError` for a share outside (0, 0.5], or where either side has no window.
    """
    check_range("length", length, 2)
    check_range("share", share, 0.01, 0.5)
    if len(records) >= _WHOLE_RECORDS:
        order = Shuffle(len(records), seed)(range(len(records)))
        count = max(1, round(share * len(records)))
        held = [records[i] for i in sorted(order[:count])]
        train = [records[i] for i in sorted(order[count:])]
    else:
        pieces = [_blocks(record, length, share) for record in records]
        train = [part for piece in pieces for part in piece[0]]
        held = [part for piece in pieces for part in piece[1]]
    found = Split(windows_of(train, length), windows_of(held, length))
    for name, windows in zip(("training", "held-out"), found, strict=True):
        if not len(windows):
            longest = max(len(record) for record in records)
            raise InputError(
                f"there is no {name} window of {length} rows without a gap in {len(records)} record(s) of at most "
                f"{longest} rows; expected more rows, fewer gaps or a smaller length."
            )
    return found


def _blocks(record: Array, length: int, share: float) -> tuple[list[Array], list[Array]]:
    """A record cut into training and held-out stretches: each period ends with its held-out share."""
    # Few blocks, as each loses the windows across its ends; more than one, so that every season may be in both.
    periods = max(1, min(_BLOCKS, int(share * len(record) / (2 * length))))
    edges = np.linspace(0, len(record), periods + 1).round().astype(int)
    train: list[Array] = []
    held: list[Array] = []
    for first, last in pairwise(edges.tolist()):
        cut = last - round(share * (last - first))
        train.append(record[first:cut])
        held.append(record[cut:last])
    return train, held


# --- tables -------------------------------------------------------------------------------------------------


class Records(NamedTuple):
    """What was read: each record ``[n, features]``, and the features' names."""

    values: list[Array]
    names: tuple[str, ...]


def read_records(
    path: Path,
    *,
    id: str | None = None,
    time: str | None = None,
    columns: Sequence[str] = (),
    freq: str | None = None,
) -> Records:
    """The records of a CSV, TSV or parquet file; see `degauss.timeseries.table` for what it may look like.

    With ``id`` each id is a record, and ``columns`` are its features. Without, the whole table is one record: its
    features are the columns of a wide table, or the series of a long one. Raises `InputError` for anything else.
    """
    from degauss.timeseries.panel import together
    from degauss.timeseries.regular import regularise
    from degauss.timeseries.table import read_table

    if id is None:
        table = read_table(path, time=time, target=list(columns) or None)
        panel = together([regularise(series, freq) for series in table.series])
        return Records([panel.values], tuple(series.name for series in table.series))
    if not columns:
        raise InputError(f"{path}: each {id!r} is to be a record of its own; name its features with --columns.")
    tables = [read_table(path, id=id, time=time, target=column) for column in columns]
    records: list[Array] = []
    for parts in zip(*(table.series for table in tables), strict=True):
        if len(parts[0].times) > 1:  # one row has no step, and makes no window
            records.append(together([regularise(part, freq) for part in parts]).values)
    if not records:
        raise InputError(f"{path}: no {id!r} has more than one row; expected records of several rows.")
    return Records(records, tuple(columns))


# --- public sets --------------------------------------------------------------------------------------------


def sines(count: int, length: int = 24, features: int = 5, seed: int = 0) -> Array:
    """The papers' Sines: (sin(f j + p) + 1) / 2 at j = 0, 1, ... with f and p ~ U(0, 0.1) for each feature and window.

    ``[count, length, features]``; window i of a seed is always the same (Yoon et al. 2019, TimeGAN, section 5.1).
    """
    u = Noise(seed, range(count)).uniform(torch.empty(count, 2, features, dtype=torch.float64)).numpy()
    frequency, phase = 0.1 * u[:, 0, None], 0.1 * u[:, 1, None]
    return (np.sin(frequency * np.arange(length)[:, None] + phase) + 1) / 2


def stocks() -> Array:
    """Google's daily stock, 2004 to 2019, ``[3685, 6]``: the columns of `STOCKS`.

    Read from ``timeseries/stock_data.csv`` of `degauss.timeseries.datasets.data_root`; `InputError` if it is not there.
    Source: the TimeGAN repository (Yoon et al. 2019).
    """
    path = data_root() / "timeseries" / "stock_data.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected TimeGAN's stock prices there, so set DEGAUSS_DATA.")
    try:
        values = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    except ValueError as error:
        raise InputError(f"{path}: is not the table of stock prices ({error}).") from None
    if values.shape[1:] != (len(STOCKS),):
        raise InputError(f"{path}: has {values.shape[1]} columns; expected {', '.join(STOCKS)}.")
    return values
