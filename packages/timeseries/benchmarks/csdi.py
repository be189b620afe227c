"""CSDI here and in PyPOTS: the same network, data, held-out values and CPU time, in one run.

    python packages/timeseries/benchmarks/csdi.py [--seconds 180] [--stays 12] [--samples 10]

Both train the network of the claims on the same 3200 stays of PhysioNet 2012 in batches of 8, each for so many seconds
of one core, and fill in the same tenth of the measured values of the same test stays by the published 50 ancestral
steps; ours also by 8 steps of DDIM. PyPOTS (its release 1.5) is no part of the lock, since it pins much: install it in
an environment of its own beside degauss-timeseries. All time is CPU time of one thread, so a busy machine does no harm.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from degauss.core.gaussian import ddim
from degauss.core.train import Shuffle
from degauss.timeseries import naive_imputation as naive
from degauss.timeseries.csdi import CSDI, Imputing, Units, draw, units_of
from degauss.timeseries.csdi_net import CSDIConfig
from degauss.timeseries.csdi_training import fit, recipe
from degauss.timeseries.physionet import HeldOut, hold_out, physionet, score

Array = NDArray[np.float64]

TEST, BATCH, LR = 800, 8, 2e-3
CONFIG = CSDIConfig(
    channels=32,
    layers=2,
    heads=2,
    feedforward=64,  # PyPOTS has no other
    step_embedding=64,
    time_embedding=32,
    feature_embedding=16,
)
TRIAL = 20  # steps that tell how many fit into the time


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds of CPU it took."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def ours(train: Array, seconds: float) -> tuple[CSDI, int, float]:
    """A model, its steps, and the time they took."""
    with tempfile.TemporaryDirectory() as folder:

        def run(name: str, steps: int) -> CSDI:
            return fit(CONFIG, list(train), recipe(Path(folder, name), steps=steps, batch=BATCH, lr=LR, device="cpu"))

        run("warm", 2)
        _, trial = timed(lambda: run("trial", TRIAL))
        steps = max(1, round(seconds / trial * TRIAL))
        model, spent = timed(lambda: run("whole", steps))
        return model, steps, spent


def theirs(train: Array, seconds: float) -> tuple[Any, int, float]:
    """PyPOTS' model, its steps, and the time they took; ``train`` is standardised."""
    model = pypots("imputation").CSDI(
        n_steps=CONFIG.length,
        n_features=CONFIG.features,
        n_layers=CONFIG.layers,
        n_heads=CONFIG.heads,
        n_channels=CONFIG.channels,
        d_time_embedding=CONFIG.time_embedding,
        d_feature_embedding=CONFIG.feature_embedding,
        d_diffusion_embedding=CONFIG.step_embedding,
        n_diffusion_steps=CONFIG.steps,
        batch_size=BATCH,
        epochs=1,
        optimizer=pypots("optim").Adam(lr=LR, weight_decay=1e-6),
        device="cpu",
        verbose=False,
    )
    chunk, steps, start = 10 * BATCH, 0, time.process_time()
    order = Shuffle(len(train))
    # An epoch of a few batches at a time, so that it can be stopped in time; its optimizer lives on.
    while time.process_time() - start < seconds:
        rows = order(range(steps * BATCH, steps * BATCH + chunk))
        model.fit({"X": train[rows].astype(np.float32)})
        steps += chunk // BATCH
    return model, steps, time.process_time() - start


def pypots(module: str) -> Any:
    """A module of PyPOTS, which is not in the lock."""
    try:
        return importlib.import_module(f"pypots.{module}")
    except ImportError as error:
        raise SystemExit(
            f"PyPOTS cannot be imported ({error}); install it beside degauss-timeseries in an environment of its own: "
            "pip install 'pypots>=1.5'"
        ) from None


def line(name: str, part: HeldOut, samples: Array, units: Units, steps: str = "", trained: str = "", drawn: str = ""):
    """One line of the table."""
    crps, mae = score(part.target, samples, units)
    print(f"{name:28} {crps:6.3f} {mae:6.3f} {steps:>7} {trained:>9} {drawn:>9}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--stays", type=int, default=12)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    np.random.seed(arguments.seed)  # noqa: NPY002 (PyPOTS draws from it)
    pypots("imputation")

    values = physionet().values
    order = Shuffle(len(values), arguments.seed)(range(len(values)))
    train, part = values[order[TEST:]], hold_out(values[order[: arguments.stays]], 0.1, arguments.seed)
    units = units_of(train)
    print(f"{arguments.stays} stays, {(~np.isnan(part.target)).sum()} values held out, {arguments.samples} samples")
    print(f"{'':28} {'CRPS':>6} {'MAE':>6} {'steps':>7} {'training':>9} {'sampling':>9}")
    line("the mean", part, naive.mean(part.known, units.centre)[None], units)
    line("the last value", part, naive.last_value(part.known, units.centre)[None], units)
    line("the line", part, naive.linear(part.known, units.centre)[None], units)

    model, steps, spent = ours(train, arguments.seconds)
    for name, imputing in {
        "degauss, 50 ancestral steps": Imputing(arguments.samples, CONFIG.steps),
        "degauss, 8 DDIM steps": Imputing(arguments.samples, 8, ddim()),
    }.items():
        samples, drawn = timed(lambda imputing=imputing: draw(model, part.known, imputing).swapaxes(0, 1))
        line(name, part, samples, units, str(steps), f"{spent:.0f} s", f"{drawn:.1f} s")

    model, steps, spent = theirs((train - units.centre) / units.width, arguments.seconds)
    known = ((part.known - units.centre) / units.width).astype(np.float32)
    found, drawn = timed(lambda: model.predict({"X": known}, n_sampling_times=arguments.samples)["imputation"])
    samples = found.swapaxes(0, 1).astype(np.float64) * units.width + units.centre
    line("PyPOTS, 50 ancestral steps", part, samples, units, str(steps), f"{spent:.0f} s", f"{drawn:.1f} s")


if __name__ == "__main__":
    main()
