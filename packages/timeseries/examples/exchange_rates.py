"""Exchange rates: a forecaster of eight currencies, and the naive forecasts that it has to beat.

    python packages/timeseries/examples/exchange_rates.py [--steps 1200] [--windows 5]

Where the exchange-rate set of the literature lies under DEGAUSS_DATA these are real rates (daily against the dollar,
1990 to 2013), else random walks made below. A TSDiff is trained on all eight and forecasts the thirty business days
after each cutoff. The defaults are a toy that ends in seconds and has learnt little; the options above take some ten
minutes of one CPU core. The last value of a rate is nearly the best forecast that there is: the table says how near.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from degauss.core.errors import InputError
from degauss.core.gaussian import ddim
from degauss.timeseries import plots
from degauss.timeseries.config import TSDiffConfig
from degauss.timeseries.datasets import exchange_rate
from degauss.timeseries.exchange import Split, naive_scores, score, split
from degauss.timeseries.forecasting import forecast
from degauss.timeseries.regular import Regular, Series, future_index, regularise
from degauss.timeseries.training import fit, recipe
from degauss.timeseries.tsdiff import Sampling

HORIZON = 30
CONFIG = TSDiffConfig(
    context=120, horizon=HORIZON, min_context=120, lags=(30, 60), hidden=24, blocks=2, state=32, step_embedding=32
)


def walks(count: int = 8, days: int = 900, seed: int = 0) -> list[Regular]:
    """Rates that change by a tenth of their yearly volatility a day, on business days."""
    random = np.random.default_rng(seed)
    times = np.arange("1990-01-01", "1999-01-01", dtype="datetime64[D]")
    times = times[np.is_busday(times)][:days].astype("datetime64[ns]")
    rates = np.exp(np.cumsum(0.006 * random.normal(size=(count, days)), axis=1))
    return [regularise(Series(f"walk {k}", times, values)) for k, values in enumerate(rates)]


def find_rates(windows: int) -> tuple[list[Regular], Split, str]:
    """What to train on, what to forecast, and what they are."""
    try:
        return exchange_rate().train, split(windows), "exchange rates"
    except InputError as missing:
        print(f"{missing}\nRandom walks instead.")
    whole = walks()
    known = [replace(each, values=each.values[:-HORIZON]) for each in whole]
    return known, Split(known, np.stack([each.values[-HORIZON:] for each in whole])), "random walks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="training steps")
    parser.add_argument("--windows", type=int, default=1, help="cutoffs, of the set's five")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    train, part, kind = find_rates(options.windows)
    print(f"{len(train)} {kind}, {len(part.records)} forecasts of {HORIZON} days")
    settings = recipe(options.out / f"exchange-{options.steps}", steps=options.steps, batch=16, device="cpu")
    model = fit(CONFIG, [record.values for record in train], settings)
    sampling = Sampling(samples=options.samples, steps=10, solver=ddim(), seed=0)
    scores = {"TSDiff": score(model, part, sampling), **naive_scores(part)}
    for name, value in sorted(scores.items(), key=lambda item: item[1]):
        print(f"{name:34} mean weighted quantile loss {value:.4f}")
    record = part.records[0]
    samples = forecast(model, [record], HORIZON, sampling)[0]
    path = options.out / "exchange_rates.png"
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    plots.fan_chart(
        path,
        record.times[-4 * HORIZON :],
        record.values[-4 * HORIZON :],
        future_index(record, HORIZON),
        levels,
        np.quantile(samples, levels, axis=0),
        actual=part.target[0],
        title=f"{record.name}: {HORIZON} days ahead",
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
