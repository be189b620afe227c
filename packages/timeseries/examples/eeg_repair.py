"""Repair of an EEG: a channel that fell off, filled in from its neighbours, and how right that is.

    python packages/timeseries/examples/eeg_repair.py [--steps 3000] [--channels 16] [--file REST_raw.fif]

The first two thirds of a recording are good, and a model is trained on them. In the last third one channel is bad and
one span is bad in all channels; what they really were is kept aside. Both are filled in and written as FIF with
annotations; then the truth comes back to say how far off the repair is, beside what mne's spherical splines make of
the same channel where the electrodes have positions, and beside least squares on the other channels, which is hard to
beat where there is little to learn from. Without ``--file``: a real EEG of six seconds where it lies under
DEGAUSS_DATA, else a synthetic one made below. Six seconds are little, and the default training is a toy that ends in
seconds and has learnt next to nothing; give it minutes of one core, or recordings of your own. The same from a shell:

    degauss-timeseries repair rest_raw.fif --train good_raw.fif --out repaired_raw.fif --plot before_after.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import mne
import numpy as np
from numpy.typing import NDArray

from degauss.core.gaussian import ddim
from degauss.core.places import data_root
from degauss.timeseries.csdi import Imputing
from degauss.timeseries.csdi_net import CSDIConfig
from degauss.timeseries.csdi_training import recipe
from degauss.timeseries.recording_plots import repair_plot
from degauss.timeseries.recordings import Recording, repair, training_records, write
from degauss.timeseries.repair import learn
from degauss.timeseries.repair_backtest import interpolated, regressed

RATE = 128.0


def synthetic(seed: int = 0) -> Any:
    """Twenty seconds of rhythms from three places under a cap of sixteen electrodes, 128 Hz, V."""
    random = np.random.default_rng(seed)
    names = ["Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P3", "Pz", "P4", "Oz"]
    angle = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    places = 0.095 * np.stack([0.8 * np.cos(angle), 0.8 * np.sin(angle), np.full(len(names), 0.6)], axis=1)
    times = np.arange(20 * RATE) / RATE
    sources = 0.08 * np.stack([[1, 0, 0.4], [-0.6, 0.7, 0.3], [0, -0.8, 0.5]])
    waves = [
        np.cos(2 * np.pi * rate * times + 3 * np.sin(times * drift)) for rate, drift in ((10, 1), (6, 0.7), (18, 2))
    ]
    gain = 1 / ((places[:, None] - sources) ** 2).sum(-1)
    data = 1e-5 * (gain / gain.mean() @ np.stack(waves) + 0.2 * random.normal(size=(len(names), len(times))))
    raw = mne.io.RawArray(data, mne.create_info(names, RATE, "eeg"), verbose="error")
    raw.set_montage(mne.channels.make_dig_montage(dict(zip(names, places, strict=True)), coord_frame="head"))
    return raw


def find_recording(file: Path | None, channels: int) -> tuple[Any, str]:
    """A recording to take apart, high-passed, at most 128 Hz, of at most ``channels`` EEG channels; and what it is."""
    real = data_root() / "timeseries" / "test.edf"
    path = real if file is None and real.is_file() else file
    raw = synthetic() if path is None else mne.io.read_raw(path, preload=True, verbose="error")
    raw.set_annotations(None)
    raw.pick("eeg").pick(raw.ch_names[:channels])
    # Offsets and drifts tell nothing of the brain, and differ between the parts of a recording.
    raw.filter(1.0, None, verbose="error")
    raw.resample(min(RATE, raw.info["sfreq"]), verbose="error")
    return raw, "a synthetic EEG" if path is None else path.name


def rms(values: NDArray[np.float64]) -> float:
    """Root mean square, in microvolts."""
    return float(np.sqrt((values**2).mean()) * 1e6)


def main() -> None:
    """Break, train, repair, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--file", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()

    raw, kind = find_recording(arguments.file, arguments.channels)
    end = raw.times[-1]
    good, broken = raw.copy().crop(0, 2 * end / 3), raw.copy().crop(2 * end / 3, min(end, 2 * end / 3 + 2))
    truth = broken.get_data()
    bad = broken.ch_names[len(broken.ch_names) // 2]
    broken.info["bads"] = [bad]
    broken[bad] = 1e-3 * np.random.default_rng(1).normal(size=(1, len(broken.times)))
    broken.annotations.append(broken.first_time + 0.5, 0.1, "BAD_movement")
    recording = Recording.of(broken)
    hidden = recording.stretches[0].wanted.T
    print(f"{kind}: {len(raw.ch_names)} channels at {recording.rate}, {end * 2 / 3:.1f} s to learn from; {bad} is bad")

    config = CSDIConfig(
        features=len(raw.ch_names), length=32, channels=32, layers=3, heads=4, feedforward=32, dropout=0.0
    )
    records = training_records([recording, Recording.of(good)])
    with tempfile.TemporaryDirectory() as folder:
        settings = recipe(Path(folder), steps=arguments.steps, lr=3e-3, device="cpu")
        model = learn(config, records, settings, recording.channels, recording.rate)
    others = truth.T.copy()
    others[:, broken.ch_names.index(bad)] = np.nan
    splines, line = interpolated(recording, others).T, regressed(Recording.of(good), others).T
    repaired = repair(recording, model, Imputing(samples=10, steps=8, solver=ddim()))

    row = broken.ch_names.index(bad)
    span = hidden.all(0)
    print(f"{'error in µV of':34} {bad:>8} {'the span':>9}")
    for name, guess in (
        (f"CSDI after {arguments.steps} steps", broken.get_data()),
        ("mne's spherical splines", np.where(span, np.nan, splines)),
        ("least squares on the other channels", np.where(span, np.nan, line)),
        ("nothing at all (zeros)", np.zeros_like(truth)),
    ):
        errors = [rms((guess - truth)[row, ~span]), rms((guess - truth)[:, span])]
        print(f"{name:34} " + " ".join(f"{error:9.2f}" if np.isfinite(error) else f"{'-':>9}" for error in errors))

    target = arguments.out / "eeg_repaired_raw.fif"
    write(recording, target)
    picture = arguments.out / "eeg_repair.png"
    repair_plot(picture, *repaired.view[1:], title=f"{bad}: before and after", unit="V")
    print(f"wrote {target} and {picture}")


if __name__ == "__main__":
    main()
