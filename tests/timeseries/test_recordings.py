"""Recordings of mne: what is bad in them, what is filled in, and that nothing else changes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from degauss.core.errors import InputError
from degauss.core.gaussian import ddim, dpmpp
from degauss.timeseries.csdi import CSDI, Imputing, Units, units_of
from degauss.timeseries.csdi_net import CSDIConfig
from degauss.timeseries.recordings import (
    IMPUTED,
    LEVELS,
    Recording,
    check_model,
    check_target,
    repair,
    survey,
    training_records,
    write,
)
from degauss.timeseries.repair_backtest import backtest, holes, interpolated, regressed

EEG = ("Fz", "Cz", "Pz", "C3", "C4", "Oz")
RATE = 100.0
TINY = CSDIConfig(
    features=6, length=16, steps=20, channels=8, layers=1, heads=2, feedforward=8,
    step_embedding=8, time_embedding=8, feature_embedding=4, dropout=0.0,
)  # fmt: skip
QUICK = Imputing(samples=4, steps=2, solver=ddim())
MIX = np.random.default_rng(7).normal(size=(6, 2))


def signals(n: int, seed: int = 0) -> np.ndarray:
    """Two slow Gaussian sources seen by six electrodes with a little noise of their own; V, ``[6, n]``."""
    random = np.random.default_rng(seed)
    white = random.normal(size=(2, n + 20))
    sources = np.stack([np.convolve(row, np.hanning(12), "valid")[:n] for row in white])
    return 1e-5 * (MIX @ sources / 2 + 0.1 * random.normal(size=(6, n)))


def raw_of(
    data: np.ndarray | None = None,
    *,
    first: int = 0,
    bads: Sequence[str] = (),
    dated: bool = False,
    montage: bool = False,
) -> Any:
    """Six EEG channels, one of events and an EOG."""
    data = signals(600) if data is None else data
    n = data.shape[1]
    kinds: Any = ["eeg"] * 6 + ["stim", "eog"]
    info = mne.create_info([*EEG, "STI", "EOG"], RATE, kinds)
    if dated:
        info.set_meas_date(datetime(2024, 5, 1, 12, 0, 3, tzinfo=UTC))
    events = (np.arange(n) % 50 == 0) * 3.0
    raw = mne.io.RawArray(
        np.vstack([data, events, 1e-4 * np.cos(np.arange(n))]), info, first_samp=first, verbose="error"
    )
    if montage:
        places = {
            "Fz": (0, 7, 6),
            "Cz": (0, 0, 9),
            "Pz": (0, -7, 6),
            "C3": (-6, 0, 7),
            "C4": (6, 0, 7),
            "Oz": (0, -9, 0),
        }
        places = {name: np.array(place) / np.linalg.norm(place) * 0.095 for name, place in places.items()}
        raw.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    raw.info["bads"] = list(bads)
    return raw


def annotate(raw: Any, *spans: tuple[float, float, str, Sequence[str]]) -> None:
    """Add spans whose onsets count from the first sample."""
    for onset, duration, words, names in spans:
        raw.annotations.append(onset + raw.first_time, duration, words, ch_names=[list(names)])


def untrained(recording: Recording, config: CSDIConfig = TINY) -> CSDI:
    return CSDI.new(config, units_of(signals(600).T, recording.channels, recording.rate))


# --- what is bad ---


@pytest.mark.parametrize("dated", [False, True], ids=["undated", "dated"])
@pytest.mark.parametrize("first", [0, 1234])
def test_spans_are_where_mne_has_them(first, dated):
    raw = raw_of(first=first, dated=dated)
    annotate(raw, (0.996, 0.257, "BAD_move", []), (3.0, 0.5, "bad blink", []), (5.9, 9.0, "Bad end", []))
    annotate(raw, (2.0, 0.3, "good", []), (4.0, 0.0, "BAD instant", []))
    [stretch] = Recording.of(raw).stretches
    theirs = np.isnan(raw.get_data(picks="eeg", reject_by_annotation="NaN", verbose="error")).T
    assert theirs.any()
    np.testing.assert_array_equal(stretch.wanted, theirs)
    np.testing.assert_array_equal(stretch.known, ~theirs)


def test_spans_of_some_channels_and_bad_channels():
    raw = raw_of(bads=["Pz", "EOG"])
    annotate(raw, (1.0, 0.5, "BAD_jump", ["C3", "EOG"]), (2.0, 0.5, "BAD_eye", ["EOG"]))
    recording = Recording.of(raw)
    [stretch] = recording.stretches
    expected = np.zeros((600, 6), bool)
    expected[:, 2] = True
    expected[100:150, 3] = True
    np.testing.assert_array_equal(stretch.wanted, expected)
    assert (recording.channels, recording.bads, recording.rate) == (EEG, ("Pz",), "100 Hz")
    assert [span.description for span in recording.spans] == ["BAD_jump"]


def test_what_was_never_recorded_is_neither_known_nor_wanted():
    raw = raw_of(bads=["Cz"])
    annotate(raw, (1.0, 1.0, "BAD_ACQ_SKIP", []), (1.5, 1.0, "BAD_x", []))
    [stretch] = Recording.of(raw).stretches
    assert not stretch.known[100:250].any()
    assert not stretch.wanted[100:200].any()
    assert stretch.wanted[200:250].all()
    assert stretch.wanted[:100, 1].all()
    before = raw.get_data()
    recording = Recording.of(raw)
    repair(recording, untrained(recording), QUICK)
    np.testing.assert_array_equal(raw.get_data()[:, 100:200], before[:, 100:200])
    assert sorted(raw.annotations.description) == ["BAD_ACQ_SKIP", IMPUTED, IMPUTED]


def test_concatenated_recordings_are_stretches_of_their_own():
    raw: Any = mne.concatenate_raws(
        [raw_of(signals(200)), raw_of(signals(150, 1)), raw_of(signals(90, 2))], verbose="error"
    )
    annotate(raw, (1.5, 1.0, "BAD_x", []))
    recording = Recording.of(raw)
    assert [(stretch.start, len(stretch.known)) for stretch in recording.stretches] == [(0, 200), (200, 150), (350, 90)]
    assert [int(stretch.wanted.any(1).sum()) for stretch in recording.stretches] == [50, 50, 0]
    before = raw.get_data()
    repair(recording, untrained(recording), QUICK)
    changed = (raw.get_data() != before).any(0)
    np.testing.assert_array_equal(np.flatnonzero(changed), np.arange(150, 250))
    assert "EDGE boundary" in list(raw.annotations.description)


# --- repair ---


@pytest.fixture
def broken() -> Any:
    """A channel that is bad throughout and a span that is bad in all; what is bad is not even a number."""
    raw = raw_of(first=50, bads=["Cz", "STI"], dated=True)
    annotate(raw, (2.0, 0.4, "BAD_jump", ["C3", "C4"]), (3.0, 0.25, "BAD_move", []), (1.0, 0.1, "stimulus", []))
    raw[1, :300] = np.nan
    raw[2, 300:325] = np.inf
    return raw


@pytest.mark.parametrize("value", ["mean", "draw"])
def test_only_what_is_bad_changes(broken, value):
    before = broken.get_data()
    recording = Recording.of(broken)
    wanted = recording.stretches[0].wanted.copy()
    model = untrained(recording)
    told: list[tuple[int, int]] = []
    repaired = repair(recording, model, QUICK, value, lambda done, total: told.append((done, total)))
    after = broken.get_data()
    assert np.isfinite(after).all()
    np.testing.assert_array_equal(after[:6][~wanted.T], before[:6][~wanted.T])  # to the bit
    np.testing.assert_array_equal(after[6:], before[6:])
    assert (after[:6][wanted.T] != before[:6][wanted.T]).all()
    assert model.units.span is not None
    slack = 1e-5 * model.units.width[:, None]
    assert (after[:6] <= model.units.span[1][:, None] + slack).all() or value == "draw"
    np.testing.assert_array_equal(repaired.filled, wanted.sum(0))
    assert told[-1] == (600, 600)
    # It is no longer bad, and says so.
    assert broken.info["bads"] == ["STI"]
    marks = [
        (round(float(onset) - broken.first_time, 6), round(float(duration), 6), names)
        for onset, duration, words, names in zip(
            broken.annotations.onset,
            broken.annotations.duration,
            broken.annotations.description,
            broken.annotations.ch_names,
            strict=True,
        )
        if words == IMPUTED
    ]
    assert marks == [(0.0, 6.0, ("Cz",)), (2.0, 0.4, ("C3", "C4")), (3.0, 0.25, EEG)]
    assert sorted(set(broken.annotations.description)) == [IMPUTED, "stimulus"]
    with pytest.raises(InputError, match="nothing is marked as bad"):
        repair(Recording.of(broken), model, QUICK)


def test_a_draw_varies_and_the_mean_does_not(broken):
    found = {}
    for value in ("mean", "draw"):
        recording = Recording.of(broken.copy())
        repaired = repair(recording, untrained(recording), Imputing(30, 2, ddim()), value)
        found[value] = recording.data.get_data("Cz")[0]
        assert (repaired.spread[[0, 1]] > 0).all()
    assert found["draw"].std() > 2 * found["mean"].std()


def test_the_view_shows_before_and_after(broken):
    recording = Recording.of(broken)
    before = broken.get_data("Cz")[0]
    view = repair(recording, untrained(recording), QUICK).view
    assert view.channel == "Cz"
    np.testing.assert_allclose(view.times, np.arange(96) / RATE)
    np.testing.assert_array_equal(view.before, before[:96])
    assert np.isnan(view.observed).all()
    assert view.quantiles.shape == (len(LEVELS), 96)
    assert (np.diff(view.quantiles, axis=0) >= 0).all()


def epochs_of(raw: Any) -> Any:
    events = np.array([[raw.first_samp + sample, 0, 1 + k % 2] for k, sample in enumerate(range(60, 560, 50))])
    metadata = pd.DataFrame({"word": [f"w{k}" for k in range(len(events))]})
    return mne.Epochs(
        raw, events, {"a": 1, "b": 2}, tmin=-0.1, tmax=0.29, baseline=None, metadata=metadata, preload=True,
        reject_by_annotation=False, verbose="error",
    )  # fmt: skip


def test_epochs_stay_epochs(tmp_path):
    raw = raw_of(first=77, bads=["Pz"])
    annotate(raw, (1.08, 0.1, "BAD_move", []), (0.0, 0.2, "BAD_before", []))
    epochs = epochs_of(raw)
    epochs.drop([3], verbose="error")
    before = epochs.copy()
    recording = Recording.of(epochs)
    assert len(recording.stretches) == 9
    # Epoch 1 runs from 1.00 s: the move is in its rows 8 to 17.
    expected = np.zeros((40, 6), bool)
    expected[:, 2] = True
    expected[8:18] = True
    np.testing.assert_array_equal(recording.stretches[1].wanted, expected)
    repair(recording, untrained(recording), QUICK)
    write(recording, tmp_path / "some-epo.fif")
    again = mne.read_epochs(tmp_path / "some-epo.fif", verbose="error")
    for found in (epochs, again):
        np.testing.assert_array_equal(found.events, before.events)
        assert (found.event_id, found.tmin, found.info["sfreq"]) == (before.event_id, before.tmin, RATE)
        assert found.drop_log == before.drop_log
        assert found.metadata is not None
        pd.testing.assert_frame_equal(found.metadata, before.metadata)
        assert found.info["bads"] == []
        values, old = found.get_data(copy=True), before.get_data(copy=True)
        for k, stretch in enumerate(recording.stretches):
            np.testing.assert_array_equal(values[k, :6].T[stretch.known], old[k, :6].T[stretch.known])
            assert (values[k, :6].T[stretch.wanted] != old[k, :6].T[stretch.wanted]).all()
        np.testing.assert_array_equal(values[:, 6:], old[:, 6:])
        words = [[entry[2] for entry in entries] for entries in found.get_annotations_per_epoch()]
        assert words == [[IMPUTED, IMPUTED] if k == 1 else [IMPUTED] for k in range(9)]


def test_epochs_without_annotations():
    info = mne.create_info(list(EEG), RATE, "eeg")
    epochs = mne.EpochsArray(signals(200).reshape(6, 5, 40).swapaxes(0, 1), info, verbose="error")
    epochs.info["bads"] = ["Fz"]
    recording = Recording.of(epochs)
    repair(recording, untrained(recording), QUICK)
    assert epochs.info["bads"] == []
    assert epochs.annotations is not None
    assert len(epochs.annotations) == 5


# --- files ---


@pytest.mark.parametrize("precision", ["single", "double", "short"])
def test_a_fif_file_keeps_what_was_good(tmp_path, precision):
    raw = raw_of(first=50, bads=["Cz"], dated=True)
    annotate(raw, (3.0, 0.25, "BAD_move", []))
    for channel in raw.info["chs"]:  # as amplifiers have it
        channel["cal"] = 3e-8
    raw.save(tmp_path / "given_raw.fif", fmt=precision, verbose="error")
    before: Any = mne.io.read_raw(tmp_path / "given_raw.fif", preload=True, verbose="error")
    recording = Recording.read(tmp_path / "given_raw.fif")
    known = recording.stretches[0].known.T
    repair(recording, untrained(recording), QUICK)
    write(recording, tmp_path / "repaired_raw.fif")
    after: Any = mne.io.read_raw(tmp_path / "repaired_raw.fif", preload=True, verbose="error")
    np.testing.assert_array_equal(after.get_data()[:6][known], before.get_data()[:6][known])
    np.testing.assert_array_equal(after.get_data()[6:], before.get_data()[6:])
    np.testing.assert_allclose(after.get_data(), recording.data.get_data(), rtol=1e-6)
    assert (after.info["sfreq"], after.first_samp, after.ch_names) == (RATE, 50, before.ch_names)
    assert after.info["meas_date"] == before.info["meas_date"]
    assert after.info["bads"] == []
    np.testing.assert_allclose(after.annotations.onset - after.first_time, [0, 3], atol=1e-5)
    assert after.annotations.ch_names.tolist() == [("Cz",), EEG]
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_edf(tmp_path):
    pytest.importorskip("edfio", reason="mne writes EDF with edfio")
    raw = raw_of(bads=["Cz"])
    before = raw.get_data()
    recording = Recording.of(raw)
    known = recording.stretches[0].known.T
    repair(recording, untrained(recording), QUICK)
    write(recording, tmp_path / "repaired.edf")
    after = mne.io.read_raw_edf(tmp_path / "repaired.edf", preload=True, verbose="error")
    assert after.info["sfreq"] == RATE
    step = np.ptp(raw.get_data()[:6], axis=1, keepdims=True) / 2**16
    assert (np.abs(after.get_data()[:6] - before[:6]) <= 2 * step)[known].all()  # V, to a step of 16 bits
    assert IMPUTED in list(after.annotations.description)


def test_edf_without_edfio(monkeypatch):
    monkeypatch.setitem(sys.modules, "edfio", None)
    with pytest.raises(InputError, match="pip install edfio"):
        check_target(Recording.of(raw_of(bads=["Cz"])), Path("repaired.edf"))


def test_names_are_those_of_mne():
    raw, epochs = Recording.of(raw_of()), Recording.of(epochs_of(raw_of()))
    for recording, name, message in (
        (raw, "x.fif", "x.fif: expected a name that ends in raw.fif, "),
        (raw, "x-epo.fif", "as mne has it for a Raw"),
        (epochs, "x_raw.fif", "expected a name that ends in -epo.fif, _epo.fif, as mne has it for Epochs"),
        (epochs, "x.edf", "EDF holds no epochs"),
    ):
        with pytest.raises(InputError, match=message):
            check_target(recording, Path(name))
    check_target(raw, Path("sub-01_eeg.fif"))


def test_files_that_are_no_recordings(tmp_path):
    (tmp_path / "x_raw.fif").write_bytes(b"nothing of the kind")
    (tmp_path / "x.txt").write_text("1,2,3")
    for name, message in (
        ("x_raw.fif", "mne cannot read it as a recording"),
        ("x.txt", "mne cannot read it as a recording"),
        ("y_raw.fif", "no such file"),
    ):
        with pytest.raises(InputError, match=f"{name}: {message}"):
            Recording.read(tmp_path / name)
    with pytest.raises(InputError, match="has no data channels"):
        Recording.of(raw_of().pick(["STI", "EOG"]))


# --- what a model is trained on ---


def test_a_value_that_is_no_number_must_be_marked():
    raw = raw_of()
    raw[3, 321] = np.nan
    with pytest.raises(InputError, match=r"channel 'C3' is nan at 3.21 s; expected a number"):
        survey(Recording.of(raw))
    annotate(raw, (3.2, 0.1, "BAD_x", []))
    survey(Recording.of(raw))


def test_flat_channels_are_told():
    data = signals(600)
    data[4] = 0
    data[5, 100:] = 1e-6
    raw = raw_of(data)
    annotate(raw, (0.0, 1.0, "BAD_x", []))
    found = survey(Recording.of(raw))
    assert [name for name, flat in zip(EEG, found.flat, strict=True) if flat] == ["C4", "Oz"]
    np.testing.assert_allclose(found.mean[:4], data[:4, 100:].mean(1), rtol=1e-9)
    assert (found.seen == 500).all()


def test_the_last_tenth_is_never_trained_on():
    own, other = raw_of(bads=["Cz"]), raw_of(signals(300, 1)).reorder_channels([*EEG[::-1], "STI", "EOG"])
    other.drop_channels(["Oz"])
    records = training_records([Recording.of(own), Recording.of(other)])
    assert [len(record) for record in records] == [540, 270]
    expected = own.get_data("eeg")[:, :540].T
    expected[:, 1] = np.nan
    np.testing.assert_array_equal(records[0], expected)
    np.testing.assert_array_equal(records[1][:, :5], signals(300, 1)[:5, :270].T)  # found by name
    assert np.isnan(records[1][:, 5]).all()
    held = [(len(stretch.known), start) for stretch, start in Recording.of(own).held_out()]
    assert held == [(600, 540)]
    epochs = Recording.of(epochs_of(raw_of()))
    assert len(training_records([epochs])) == 9
    assert [stretch.epoch for stretch, _ in epochs.held_out()] == [9]


def test_a_channel_must_be_good_somewhere():
    own = Recording.of(raw_of(bads=["Cz"]))
    message = "channel 'Cz' is bad in all that can be trained on"
    with pytest.raises(InputError, match=message):
        training_records([own])
    with pytest.raises(InputError, match=message):
        training_records([own, Recording.of(raw_of(bads=["Cz"]))])
    late = raw_of()
    annotate(late, (0.0, 5.5, "BAD_x", ["Cz"]))
    with pytest.raises(InputError, match=message):  # good only where nothing is trained on
        training_records([own, Recording.of(late)])
    flat = signals(600)
    flat[1] = 0
    with pytest.raises(InputError, match="channel 'Cz' is flat"):
        training_records([own, Recording.of(raw_of(flat))])
    with pytest.raises(InputError, match="was sampled at 50 Hz, but the recording at 100 Hz"):
        training_records([own, Recording.of(raw_of().resample(50.0, verbose="error"), "other_raw.fif")])


def test_a_model_must_be_of_these_channels():
    recording = Recording.of(raw_of())
    model = untrained(recording)
    check_model(recording, model, "model")
    for raw, message in (
        (raw_of().rename_channels({"Cz": "CPz"}, verbose="error"), "was not trained on channel 'CPz'"),
        (raw_of().drop_channels(["Cz"]), "expects a channel 'Cz', which the recording lacks"),
        (raw_of().reorder_channels([*EEG[::-1], "STI", "EOG"]), "in the order Fz, Cz"),
        (raw_of().resample(50.0, verbose="error"), "was trained at 100 Hz, but the recording was sampled at 50 Hz"),
    ):
        with pytest.raises(InputError, match=message):
            check_model(Recording.of(raw), model, "model")


# --- how good it is ---


class Exact(nn.Module):
    """The exact noise of windows of `signals`, in the units of a model."""

    def __init__(self, model: CSDI) -> None:
        super().__init__()
        self.schedule, self.nothing = model.schedule, nn.Parameter(torch.zeros(()))
        shape = np.hanning(12)
        lag = np.correlate(shape, shape, "full")[11:]
        of_time = np.concatenate([lag, np.zeros(model.config.length)])
        rows = np.arange(model.config.length)
        of_time = of_time[np.abs(rows[:, None] - rows)]
        covariance = np.kron(of_time, MIX @ MIX.T / 4) + 0.01 * np.eye(len(rows) * len(EEG))
        width = np.tile(model.units.width / 1e-5, len(rows))
        self.covariance = torch.from_numpy(covariance / np.outer(width, width))

    def sides(self, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        del mask
        return ()

    def forward(self, x: Any, t: Any, known: Any, mask: Any, sides: Any) -> torch.Tensor:
        del sides
        alpha, sigma = map(float, self.schedule(t))
        free = mask[0].flatten() == 0
        cross = self.covariance[free][:, ~free] @ torch.linalg.inv(self.covariance[~free][:, ~free])
        mean = known.flatten(1)[:, ~free].double() @ cross.T
        covariance = self.covariance[free][:, free] - cross @ self.covariance[~free][:, free]
        noise = sigma**2 * torch.eye(len(covariance), dtype=torch.float64)
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + noise)
        noisy = x.flatten(1)[:, free].double()
        eps = torch.zeros(len(x), x[0].numel(), dtype=torch.float64)
        eps[:, free] = (noisy - alpha * (mean + (noisy - alpha * mean) @ gain.T)) / sigma
        return eps.view_as(x).to(x)


@pytest.fixture(scope="module")
def exact() -> CSDI:
    """A model that knows the law of `signals`, as far as a window reaches."""
    width = 1e-5 * np.sqrt((MIX**2).sum(1) / 4 * (np.hanning(12) ** 2).sum() + 0.01)
    config = replace(TINY, length=12, steps=100, beta_last=0.3)
    model = CSDI.new(config, Units(np.zeros(6), width, None, EEG, "100 Hz"))
    return CSDI(config, model.units, cast("Any", Exact(model)))


WELL = Imputing(60, 40, dpmpp(2), rows=60)


def test_a_repair_is_what_the_other_channels_say(exact):
    """Noise aside, six electrodes of two sources: what is known of them nearly is what is not."""
    truth = signals(300, 9)
    raw = raw_of(truth.copy(), bads=["Pz"])
    annotate(raw, (1.0, 0.02, "BAD_move", []))
    raw[2] = 1e-3 * np.random.default_rng(0).normal(size=(1, 300))
    recording = Recording.of(raw)
    repaired = repair(recording, exact, WELL)
    error = raw.get_data("eeg") - truth
    # The two sources at one time, from the five others at that time alone: times around it can only help.
    others = np.delete(MIX, 2, 0) / 2
    sources = np.linalg.inv(others.T @ others / 0.01 + np.eye(2) / (np.hanning(12) ** 2).sum())
    bound = 1e-5 * np.sqrt(MIX[2] @ sources @ MIX[2] / 4 + 0.01)
    assert np.sqrt((error[2] ** 2).mean()) < 1.1 * bound
    assert repaired.spread[2] == pytest.approx(np.sqrt((error[2] ** 2).mean()), rel=0.2)  # it knows how sure it is
    assert np.sqrt((error[:, 100:102] ** 2).mean()) < 0.5 * truth.std()


def test_the_backtest_says_what_interpolation_would_do(exact):
    raw = raw_of(signals(600, 9), bads=["Pz"], montage=True)
    annotate(raw, (1.0, 0.06, "BAD_move", []), (2.0, 0.06, "BAD_jump", []))
    recording = Recording.of(raw)
    found = holes(recording, 12, 3, np.zeros(6, bool), seed=0)
    assert sorted(found) == ["channels", "spans"]
    for hole in (*found["channels"], *found["spans"]):
        assert 540 <= hole.first < hole.last <= 600
        assert hole.stretch.known[hole.first : hole.last][hole.hidden].all()
    before = raw.get_data()
    channels = backtest(recording, exact, WELL, found["channels"])
    assert channels.line is None
    assert channels.interpolation is not None
    assert channels.model < channels.interpolation  # which knows where electrodes are, but nothing of the sources
    assert channels.regression is not None
    assert channels.model < 1.1 * channels.regression  # linear and Gaussian, so past and future add but little
    assert channels.coverage_90 == pytest.approx(0.9, abs=0.1)
    hole, errors = found["channels"][0], channels.holes[0]
    [column] = np.flatnonzero(hole.hidden.any(0))
    assert errors.channels == (EEG[column],)
    mine = raw.copy().crop(hole.first / RATE, (hole.last - 1) / RATE).pick("eeg")
    truth = mine.get_data()[column]
    mine.info["bads"] = ["Pz", EEG[column]]
    mine.interpolate_bads(verbose="error")
    expected = np.sqrt(((mine.get_data()[column] - truth) ** 2).mean())  # V
    assert errors.interpolation == pytest.approx(expected, rel=1e-6)
    z = raw.get_data("eeg").T[:540] - raw.get_data("eeg").T[:540].mean(0)
    good = [k for k, name in enumerate(EEG) if k != column and name != "Pz"]
    weights = np.linalg.lstsq(z[:, good], z[:, column])[0]
    there = raw.get_data("eeg").T[hole.first : hole.last] - raw.get_data("eeg").T[:540].mean(0)
    expected = np.sqrt(((there[:, good] @ weights - there[:, column]) ** 2).mean())
    assert errors.regression == pytest.approx(expected, rel=0.02)  # which may also use the rows of annotated spans
    spans = backtest(recording, exact, WELL, found["spans"])
    assert spans.interpolation is None  # no channel is left to interpolate from
    assert spans.regression is None
    assert spans.line is not None
    assert spans.model < spans.line
    assert spans.holes[0].seconds == pytest.approx(0.06)
    np.testing.assert_array_equal(raw.get_data(), before)


def test_there_is_no_interpolation_without_a_montage():
    given = signals(50).T.copy()
    given[:, 2] = np.nan
    assert np.isnan(interpolated(Recording.of(raw_of()), given)).all()
    there = interpolated(Recording.of(raw_of(montage=True)), given)
    assert np.isfinite(there).all()
    np.testing.assert_array_equal(np.delete(there, 2, 1), np.delete(given, 2, 1))


def test_a_regression_finds_what_is_a_line_of_the_others_and_no_more():
    values = signals(200).copy()
    values[4] = 3e-5 + 2 * values[0] - values[1]
    raw = raw_of(values, bads=["Pz"])
    given = values.T[180:].copy()
    given[:5, 4] = np.nan
    given[:, EEG.index("Pz")] = np.nan
    there = regressed(Recording.of(raw), given)
    np.testing.assert_allclose(there[:5, 4], values[4, 180:185], rtol=1e-6)
    assert np.isnan(there[:, EEG.index("Pz")]).all()  # nothing was ever seen of it
    assert np.isnan(regressed(Recording.of(raw), np.full_like(given, np.nan))).all()
    assert np.isnan(regressed(Recording.of(raw_of(values[:, :9])), given)).all()  # too few rows


def test_no_hole_can_be_made_where_nothing_is_held_out():
    info = mne.create_info(list(EEG), RATE, "eeg")
    epochs = mne.EpochsArray(signals(40)[None], info, verbose="error")
    epochs.info["bads"] = ["Fz"]
    assert holes(Recording.of(epochs), 16, 3, np.zeros(6, bool), seed=0) == {"channels": []}
    with pytest.raises(ValueError, match="no holes"):
        backtest(Recording.of(epochs), untrained(Recording.of(epochs)), QUICK, [])
