"""Public series: the one that comes with the source, and those found under `$DEGAUSS_DATA`.

Nothing is downloaded or written here.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from degauss.core.errors import InputError
from degauss.core.places import data_root as data_root  # noqa: PLC0414  # claims ask for it here
from degauss.timeseries.regular import Regular
from degauss.timeseries.table import Table, read_table

_HERE = Path(__file__).resolve()


class ExchangeRate(NamedTuple):
    """The exchange-rate set with the split of the DeepVAR and TSDiff papers.

    `train`: 8 currencies of 6071 business days from 1990-01-01, in US dollars. `test`: 40 entries, the same
    8 for each of 5 rolling windows, with their whole past; the last `horizon` days are to be forecast.
    """

    train: list[Regular]
    test: list[Regular]
    horizon: int
    season: int


def exchange_rate() -> ExchangeRate:
    """Read `timeseries/exchange_rate_nips.tar.gz` of `data_root()`; raise `InputError` if it is not there.

    GluonTS JSON lines, read straight from the archive. Source: the GluonTS repository, after Lai et al. 2018.
    """
    import pandas as pd

    path = data_root() / "timeseries" / "exchange_rate_nips.tar.gz"
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the exchange-rate set there, so set DEGAUSS_DATA.")
    parts: dict[str, list[Regular]] = {}
    try:
        with tarfile.open(path) as archive:
            for part in ("train", "test"):
                file = archive.extractfile(f"exchange_rate_nips/{part}/{part}.json")
                if file is None:
                    raise KeyError(part)
                entries = [json.loads(line) for line in file]
                parts[part] = [
                    Regular(
                        name=f"currency {row % 8 + 1}",
                        start=pd.Timestamp(entry["start"]).as_unit("ns"),
                        step=pd.offsets.BusinessDay(),
                        values=np.asarray(entry["target"], dtype=np.float64),
                    )
                    for row, entry in enumerate(entries)
                ]
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: is not the exchange-rate archive ({error}).") from None
    return ExchangeRate(parts["train"], parts["test"], horizon=30, season=5)


def co2() -> Table:
    """The weekly Mauna Loa record of atmospheric CO2 (ppm, 1958 to 2001) with its real gaps.

    Read from `examples/data/co2_weekly.csv` of the source checkout; Keeling & Whorf 2004, public domain.
    """
    path = _HERE.parents[3] / "examples" / "data" / "co2_weekly.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file; the CO2 record comes with a checkout of the source.")
    return read_table(path)
