"""PhysioNet 2012: the hospital stays on which imputation is scored, and how.

4000 stays in intensive care (set A of the PhysioNet/Computing in Cardiology Challenge 2012), 35 vital signs and
laboratory values over the first 48 hours. Of several values in an hour the last counts; about four fifths of all
entries were never measured. Source: Silva et al. 2012, Open Data Commons Attribution licence.

Nothing is downloaded or written here.
"""

from __future__ import annotations

from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError
from degauss.core.places import data_root
from degauss.timeseries import metrics
from degauss.timeseries.csdi import Units

Array = NDArray[np.float64]

FILE = "physionet2012_set_a.npz"


class Stays(NamedTuple):
    """``values`` ``[stays, 48 hours, 35]`` with NaN where nothing was measured, and the names of the 35."""

    values: Array
    names: tuple[str, ...]


class HeldOut(NamedTuple):
    """``known``: values with NaN where held out as well; ``target``: NaN everywhere but there. Both of one shape."""

    known: Array
    target: Array


def physionet() -> Stays:
    """Read ``timeseries/physionet2012_set_a.npz`` of `degauss.timeseries.datasets.data_root`.

    An archive of numpy arrays, of which ``hourly`` ``[stays, 48, 35]`` and ``attributes`` ``[35]`` are read. Raises
    `InputError` if it is not there, or is something else.
    """
    path = data_root() / "timeseries" / FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected PhysioNet 2012 set A there, so set DEGAUSS_DATA.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            values, names = archive["hourly"].astype(np.float64), tuple(map(str, archive["attributes"]))
    except (BadZipFile, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: is not the PhysioNet 2012 archive ({error}).") from None
    if values.ndim != 3 or values.shape[1:] != (48, len(names)):
        raise InputError(f"{path}: hourly is {values.shape} for {len(names)} names; expected [stays, 48, names].")
    return Stays(values, names)


def hold_out(values: Array, share: float, seed: int) -> HeldOut:
    """Hold out a share of the observed values, chosen at random in each window ``values[i]`` by itself.

    As in CSDI, the number is rounded down. Raises ValueError for a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    chosen = np.zeros(values.shape, dtype=bool)
    for i, window in enumerate(values):
        observed = np.flatnonzero(~np.isnan(window))
        picked = np.random.default_rng((seed, i)).permutation(observed)[: int(len(observed) * share)]
        chosen[i].flat[picked] = True
    return HeldOut(np.where(chosen, np.nan, values), np.where(chosen, values, np.nan))


class Score(NamedTuple):
    """In units of each feature's standard deviation, as the papers have it; smaller is better.

    ``crps``: `degauss.timeseries.metrics.csdi_quantile_loss`. ``mae``: mean absolute error of the median.
    """

    crps: float
    mae: float


def score(target: Array, samples: Array, units: Units) -> Score:
    """Score ``samples`` ``[draws, windows, length, features]`` in data units where ``target`` is not NaN."""
    scaled = (target - units.centre) / units.width
    drawn = (samples - units.centre) / units.width
    error = np.abs(np.median(drawn, axis=0) - scaled)
    return Score(metrics.csdi_quantile_loss(scaled, drawn), float(np.nanmean(error)))
