"""Imputation of hospital vitals: what was never measured, how sure the model is of it, and how right.

    python packages/timeseries/examples/hospital_vitals.py [--steps 1500] [--stays 4000]

Six vital signs of intensive care, hour by hour over two days, of which most were not measured in most hours. Where
PhysioNet 2012 lies under DEGAUSS_DATA these are real stays, else synthetic ones made below. A small CSDI is trained on
most of the stays; in the rest a tenth of what was measured is hidden from it and filled in again. The defaults are a
toy that ends in seconds and has learnt little; the options above take some minutes of one CPU core. The table goes to
the terminal, the picture of one stay to ``out/hospital_vitals.png``: the dots were hidden.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError
from degauss.core.gaussian import ddim
from degauss.timeseries import naive_imputation as naive
from degauss.timeseries import plots
from degauss.timeseries.csdi import Imputing, draw
from degauss.timeseries.csdi_net import CSDIConfig
from degauss.timeseries.csdi_training import fit, recipe
from degauss.timeseries.physionet import hold_out, physionet, score

VITALS = ("HR", "SysABP", "DiasABP", "MAP", "Temp", "RespRate")
HOURS = 48
SHARE = 0.1
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)

Array = NDArray[np.float64]


def real_stays(count: int) -> Array:
    """Stays of PhysioNet 2012, ``[count, 48, 6]``, NaN where nothing was measured."""
    stays = physionet()
    return stays.values[:count][..., [stays.names.index(name) for name in VITALS]]


def synthetic_stays(count: int, seed: int = 0) -> Array:
    """The same from a random level for each patient, a slow drift that all signs share, and noise of their own."""
    random = np.random.default_rng(seed)
    usual = np.array([85.0, 120.0, 60.0, 80.0, 37.0, 19.0])
    spread = np.array([12.0, 18.0, 10.0, 12.0, 0.6, 4.0])
    share = np.array([0.9, 0.55, 0.55, 0.55, 0.35, 0.25])
    drift = np.cumsum(random.normal(size=(count, HOURS, 1)), axis=1) / HOURS**0.5
    level = random.normal(size=(count, 1, len(VITALS)))
    own = random.normal(size=(count, HOURS, len(VITALS)))
    values = usual + spread * (0.8 * level + np.array([1, -1, -1, -1, 0.5, 1]) * drift + 0.3 * own)
    return np.where(random.random(values.shape) < share, values, np.nan)


def find_stays(count: int) -> tuple[Array, str]:
    """Real stays where they are, or synthetic ones, and which they are."""
    try:
        return real_stays(count), "stays of PhysioNet 2012"
    except InputError:
        return synthetic_stays(count), "synthetic stays"


def main() -> None:
    """Train, fill in, score, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--stays", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()

    stays, kind = find_stays(arguments.stays)
    tested = min(20, len(stays) // 5)
    train, (known, target) = stays[tested:], hold_out(stays[:tested], SHARE, seed=0)
    print(f"{len(stays)} {kind}, {np.isnan(stays).mean():.0%} of the values missing; {tested} stays kept for the test")

    config = CSDIConfig(
        features=len(VITALS), length=HOURS, channels=16, layers=2, heads=2, feedforward=16,
        step_embedding=32, time_embedding=32, dropout=0.0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model = fit(config, list(train), recipe(Path(folder), steps=arguments.steps, batch=8, lr=5e-3, device="cpu"))
    samples = draw(model, known, Imputing(samples=10, steps=25, solver=ddim(eta=1.0))).swapaxes(0, 1)

    units = model.units
    past = hold_out(train, SHARE, seed=1)
    errors = naive.error_quantiles(past.target, naive.linear(past.known, units.centre), 19)
    line = naive.linear(known, units.centre)
    ensembles = {
        f"CSDI after {arguments.steps} steps": samples,
        "the line with its errors": line + errors[:, None, None],
        "the line": line[None],
        "the last value": naive.last_value(known, units.centre)[None],
        "the mean": naive.mean(known, units.centre)[None],
    }
    print(f"{'':26} {'CRPS':>6} {'MAE':>6}   in standard deviations, over {(~np.isnan(target)).sum()} hidden values")
    for name, ensemble in ensembles.items():
        crps, mae = score(target, ensemble, units)
        print(f"{name:26} {crps:6.3f} {mae:6.3f}")

    # The sign and stay with the most hidden values make the best picture.
    stay, sign = np.unravel_index((~np.isnan(target)).sum(1).argmax(), (tested, len(VITALS)))
    picture = arguments.out / "hospital_vitals.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    plots.imputation_plot(
        picture,
        np.arange(HOURS),
        known[stay, :, sign],
        LEVELS,
        np.quantile(samples[:, stay, :, sign], LEVELS, axis=0),
        actual=target[stay, :, sign],
        title=f"{VITALS[sign]} of one stay: measured, filled in, and what was hidden",
        y_label=VITALS[sign],
    )
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
