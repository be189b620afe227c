"""`repair`: recordings in, recordings out, and one line for what cannot be done."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest

from degauss.timeseries.recordings import IMPUTED

Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("here")
EEG = ("Fz", "Cz", "Pz", "C3")
QUICK = {
    "--train-steps": "2", "--batch": "2", "--length": "8", "--hidden": "8", "--layers": "2", "--heads": "2",
    "--samples": "4", "--steps": "2", "--holes": "2", "--device": "cpu",
}  # fmt: skip


@pytest.fixture
def run(invoke: Run) -> Run:
    """A command line -> its exit status, stdout and stderr; quick and small unless it says otherwise."""

    def command(*words: str | Path) -> tuple[int, str, str]:
        given = ["repair", *map(str, words)]
        given += [part for name, value in QUICK.items() if name not in given for part in (name, value)]
        return invoke(given)

    return command


def raw_of(seed: int = 0, n: int = 160, *, montage: bool = True) -> Any:
    """Four EEG channels that see one wave, and one of events."""
    random = np.random.default_rng(seed)
    wave = np.sin(np.arange(n) / 3 + random.random() * 6)
    data = 2e-5 * (np.array([[1.0], [0.8], [-0.5], [0.6]]) * wave + 0.2 * random.normal(size=(4, n)))
    kinds: Any = ["eeg"] * 4 + ["stim"]
    info = mne.create_info([*EEG, "STI"], 50.0, kinds)
    raw = mne.io.RawArray(np.vstack([data, np.zeros(n)]), info, verbose="error")
    if montage:
        places = {"Fz": (0, 7, 6), "Cz": (0, 0, 9), "Pz": (0, -7, 6), "C3": (-6, 0, 7)}
        places = {name: np.array(place) / np.linalg.norm(place) * 0.095 for name, place in places.items()}
        raw.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    return raw


def saved(raw: Any, name: str = "rest_raw.fif") -> str:
    raw.save(name, fmt="double", verbose="error")
    return name


@pytest.fixture
def broken() -> str:
    raw = raw_of()
    raw.info["bads"] = ["Cz"]
    raw.annotations.append(1.0, 0.1, "BAD_move")
    raw[1] = 1.0
    return saved(raw)


@pytest.fixture
def good() -> str:
    return saved(raw_of(1), "good_raw.fif")


def test_a_recording_is_repaired(run, broken, good):
    status, out, error = run(broken, "--train", good, "--plot", "cz.png")
    assert (status, error) == (0, "")
    assert "wrote repaired_raw.fif: 175 values filled in 4 channels" in out
    before = mne.io.read_raw(broken, preload=True, verbose="error")
    after = mne.io.read_raw("repaired_raw.fif", preload=True, verbose="error")
    changed = after.get_data() != before.get_data()
    expected = np.zeros((5, 160), bool)
    expected[1] = True
    expected[:4, 50:55] = True
    np.testing.assert_array_equal(changed, expected)
    assert np.abs(after.get_data()).max() < 2e-4  # V
    assert after.info["bads"] == []
    assert set(after.annotations.description) == {IMPUTED}
    about = json.loads(Path("repaired_raw.json").read_text())
    assert [(entry["channel"], entry["values"], entry["unit"]) for entry in about["imputed"]] == [
        ("Fz", 5, "V"), ("Cz", 160, "V"), ("Pz", 5, "V"), ("C3", 5, "V"),
    ]  # fmt: skip
    assert (about["bads_cleared"], about["bads_left"], about["flat"], about["rate_hz"]) == (["Cz"], [], [], 50.0)
    assert [span["description"] for span in about["spans"]] == ["BAD_move"]
    channels, spans = about["backtest"]["channels"], about["backtest"]["spans"]
    assert len(channels["holes"]) == len(spans["holes"]) == 2
    assert channels["interpolation"] > 0
    assert channels["line"] is None
    assert spans["line"] > 0
    # Nothing is learnt in two steps: what is simpler is better, and that is said.
    assert any("mne's interpolation errs by" in warning for warning in about["warnings"])
    assert f"warning: {about['warnings'][0]}" in out
    assert Path("cz.png").read_bytes().startswith(b"\x89PNG")
    assert tomllib.loads(Path("repaired_raw.toml").read_text())["train"] == [good]


def test_a_repair_repeats_itself_and_its_model_serves_again(run, broken, good):
    run(broken, "--train", good)
    first = mne.io.read_raw("repaired_raw.fif", verbose="error").get_data()
    for words in (("--train", good), ("--checkpoint", "runs/repair/model")):
        assert run(broken, *words, "--out", "again_raw.fif")[0] == 0
        np.testing.assert_array_equal(mne.io.read_raw("again_raw.fif", verbose="error").get_data(), first)
    assert run("--config", "repaired_raw.toml", broken, "--out", "third_raw.fif")[0] == 0
    np.testing.assert_array_equal(mne.io.read_raw("third_raw.fif", verbose="error").get_data(), first)


def test_spans_need_no_other_recording(run):
    raw = raw_of(montage=False)
    raw.annotations.append(1.0, 0.1, "BAD_move", ch_names=[["Pz"]])
    raw[3] = 0.0
    status, out, _ = run(saved(raw), "--value", "draw")
    assert status == 0
    about = json.loads(Path("repaired_raw.json").read_text())
    assert about["flat"] == ["C3"]
    assert "warning: C3: flat, though not marked as bad." in out
    assert about["backtest"]["spans"]["interpolation"] is None  # there is no montage
    assert about["bads_cleared"] == []


def test_an_offset_is_told(run, good):
    run(saved(raw_of(3), "x_raw.fif"))  # refused: nothing is bad
    raw = raw_of()
    raw.annotations.append(1.0, 0.1, "BAD_move")
    raw[0] = raw.get_data("Fz") + 1e-3
    status, out, _ = run(saved(raw), "--train", saved(raw_of(4, 4000), "long_raw.fif"), "--holes", "0")
    assert status == 0
    assert "warning: Fz: the mean is more than 3 standard deviations off that of the training" in out
    assert json.loads(Path("repaired_raw.json").read_text())["backtest"] == {}


def test_epochs(run, good):
    raw = raw_of()
    raw.info["bads"] = ["Pz"]
    events = np.array([[k, 0, 1] for k in range(0, 150, 20)])
    epochs = mne.Epochs(raw, events, tmin=0, tmax=0.38, baseline=None, preload=True, verbose="error")
    epochs.save("rest-epo.fif", fmt="double", verbose="error")
    assert run("rest-epo.fif", "--train", good, "--out", "repaired-epo.fif")[0] == 0
    after = mne.read_epochs("repaired-epo.fif", verbose="error")
    np.testing.assert_array_equal(after.events, epochs.events)
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(after.get_data(copy=True)[:, others], epochs.get_data(copy=True)[:, others])
    assert after.info["bads"] == []


def test_recordings_that_cannot_be_repaired(refused, broken, good):
    assert refused(good).startswith("good_raw.fif: nothing is marked as bad; expected a bad data channel")
    assert "channel 'Cz' is bad in all that can be trained on" in refused(broken)
    slow = saved(raw_of(2).resample(25.0, verbose="error"), "slow_raw.fif")
    assert refused(broken, "--train", slow).startswith("slow_raw.fif: was sampled at 25 Hz, but rest_raw.fif at 50 Hz")
    assert refused("nowhere_raw.fif") == "nowhere_raw.fif: no such file."
    assert refused(broken, "--train", "nowhere_raw.fif") == "nowhere_raw.fif: no such file."
    torn = raw_of(2)
    torn[0, 7] = np.nan
    message = refused(broken, "--train", saved(torn, "torn_raw.fif"))
    assert message.startswith("torn_raw.fif: channel 'Fz' is nan at 0.14 s")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "x.fif"), "x.fif: expected a name that ends in raw.fif"),
        (("--out", "x.csv"), "x.csv: expected a name that ends in .fif or .edf"),
        (("--out", "rest_raw.fif"), "is the file that the series are read from"),
        (("--out", "x-epo.fif"), "as mne has it for a Raw"),
        (("--length", "3"), "length must be at least 4"),
        (("--steps", "51"), "steps must be between 1 and 50, but is 51."),
        (("--layers", "1"), "layers must be at least 2"),
        (("--samples", "0"), "samples must be at least 1"),
        (("--holes", "-1"), "holes must be at least 0"),
        (("--train-steps", "0"), "steps must be at least 1"),
        (("--heads", "3"), "channels must be a multiple of heads 3"),
        (("--length", "800"), "the longest record has 144 times; training needs at least 800"),
        (("--checkpoint", "nowhere"), "train is for training a model"),
        (("--training", "good_raw.fif"), "good_raw.fif: is a file"),
    ],
)
def test_requests_that_cannot_be_met(refused, broken, good, words, message):
    assert message in refused(broken, "--train", good, *words)


def test_edf_needs_edfio(refused, broken, good, monkeypatch):
    monkeypatch.setitem(sys.modules, "edfio", None)
    assert "pip install edfio" in refused(broken, "--train", good, "--out", "x.edf")


def test_models_of_something_else(run, refused, broken, good):
    run(broken, "--train", good)
    other = raw_of(1).rename_channels({"Fz": "Oz"}, verbose="error")
    other.info["bads"] = ["Cz"]
    message = refused(saved(other, "other_raw.fif"), "--checkpoint", "runs/repair/model", "--out", "y_raw.fif")
    assert message == "runs/repair/model was not trained on channel 'Oz' of other_raw.fif."
    message = refused(broken, "--train", saved(raw_of(5), "more_raw.fif"), "--out", "y_raw.fif")
    assert message == "runs/repair: holds a model of other data; expected a new directory for this one."
    assert "steps must be between 1 and 50, but is 51." in refused(
        broken, "--checkpoint", "runs/repair/model", "--steps", "51", "--out", "y_raw.fif"
    )
    assert "nowhere is no model" in refused(broken, "--checkpoint", "nowhere", "--out", "y_raw.fif")
