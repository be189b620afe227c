"""`train-imputer`, and `impute` with its model: tables in, tables out, and one line for what cannot be done."""

from __future__ import annotations

import json
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from degauss.timeseries.csdi import CSDI
from degauss.timeseries.csdi_training import RandomStretches

Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("here")
QUICK = {
    "train-imputer": "--steps 4 --length 8 --channels 8 --layers 1 --heads 2 --batch 4 --device cpu",
    "impute": "--samples 6 --steps 4 --device cpu",
}


@pytest.fixture
def run(invoke: Run) -> Run:
    """A command line -> its exit status, stdout and stderr; quick and small unless it says otherwise."""

    def command(verb: str, *words: str | Path) -> tuple[int, str, str]:
        given = [verb, *map(str, words)]
        quick = QUICK.get(verb, "").split()
        if "--config" not in given:
            pairs = zip(quick[::2], quick[1::2], strict=True)
            given += [part for name, value in pairs if name not in given for part in (name, value)]
        return invoke(given)

    return command


def wide(count: int = 30, freq: str = "D", *missing: int) -> pd.DataFrame:
    """Two series of one wave, of which the second has gaps."""
    wave = np.sin(2 * np.pi * np.arange(count) / 8)
    stamps = pd.date_range("2024-01-01", periods=count, freq=freq)
    stamps = stamps.strftime("%Y-%m-%d" if freq == "D" else "%Y-%m-%d %H:%M")
    table = pd.DataFrame({"ds": stamps, "pulse": 80 + 10 * wave, "heat": 37 - wave})
    table.loc[list(missing), "heat"] = np.nan
    return table


def long(table: pd.DataFrame) -> pd.DataFrame:
    return table.melt("ds", var_name="unique_id", value_name="y")


def saved(table: pd.DataFrame, path: str = "data.csv") -> Path:
    table.to_csv(path, index=False)
    return Path(path)


def weights(folder: str) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in load_file(f"{folder}/model/model.safetensors").items()}


@pytest.mark.parametrize("shape", [wide, lambda *given: long(wide(*given))], ids=["wide", "long"])
def test_train_and_impute(run, shape):
    status, out, error = run("train-imputer", saved(shape()), "--out", "run", "--hold-out", "5")
    assert (status, error) == (0, "")
    assert "wrote run/model after 4 steps" in out
    model = CSDI.load("run/model")
    assert sorted(model.units.names) == ["heat", "pulse"]
    assert model.units.step == "D"
    assert model.config.length == 8
    pulse = model.units.names.index("pulse")
    assert model.units.centre[pulse] == pytest.approx(wide()["pulse"][:25].mean())  # what was held out is not in it
    data = shape(30, "D", 3, 10, 11, 29)
    words = ("--checkpoint", "run/model", "--complete", "whole.csv", "--plot", "gaps.png", "--keep-samples")
    status, out, error = run("impute", saved(data, "gaps.csv"), *words)
    assert (status, error) == (0, "")
    filled = pd.read_csv("imputed.csv")
    assert list(filled["ds"]) == ["2024-01-04", "2024-01-11", "2024-01-12", "2024-01-30"]
    assert set(filled["unique_id"]) == {"heat"}
    samples = filled.filter(like="sample_").to_numpy()
    assert samples.shape == (len(filled), 6)
    assert np.isfinite(samples).all()
    np.testing.assert_allclose(filled["mean"], samples.mean(1))
    whole = pd.read_csv("whole.csv")
    kept, given = (table["y"].to_numpy() for table in (whole, data if "y" in data else long(data)))
    np.testing.assert_allclose(kept[~np.isnan(given)], given[~np.isnan(given)], rtol=1e-14)
    np.testing.assert_allclose(kept[np.isnan(given)], filled["q0.5"])
    assert Path("gaps.png").read_bytes().startswith(b"\x89PNG")
    about = tomllib.loads(Path("imputed.toml").read_text())["provenance"]
    assert (about["steps_taken"], about["samples_taken"]) == (4, 6)


def test_a_resolved_config_repeats_the_training(run):
    run("train-imputer", saved(wide()), "--out", "run", "--seed", "3")
    assert run("train-imputer", "--config", "run/train.toml", "--out", "again")[0] == 0
    for name, value in weights("run").items():
        np.testing.assert_array_equal(weights("again")[name], value)


def test_a_stopped_training_goes_on_to_the_same_model(run, monkeypatch):
    run("train-imputer", saved(wide()), "--out", "whole")
    drawn = RandomStretches.__call__

    def stopping(self, samples):
        if samples[0] >= 8:  # in the third step
            signal.raise_signal(signal.SIGINT)
        return drawn(self, samples)

    with monkeypatch.context() as patched:
        patched.setattr(RandomStretches, "__call__", stopping)
        status, _, error = run("train-imputer", "data.csv", "--out", "parts")
    assert status == 130
    assert "Stopped by SIGINT after step" in error
    assert not Path("parts/model").exists()
    assert run("train-imputer", "data.csv", "--out", "parts")[0] == 0
    for name, value in weights("whole").items():
        np.testing.assert_array_equal(weights("parts")[name], value)


def test_columns_are_found_by_name(run):
    run("train-imputer", saved(wide()), "--out", "run")
    run("impute", saved(wide(30, "D", 4, 5), "gaps.csv"), "--checkpoint", "run/model")
    one = pd.read_csv("imputed.csv")
    run("impute", saved(wide(30, "D", 4, 5)[["ds", "heat", "pulse"]], "gaps.csv"), "--checkpoint", "run/model")
    pd.testing.assert_frame_equal(pd.read_csv("imputed.csv"), one)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp", "ancestral"])
def test_every_solver(run, solver):
    run("train-imputer", saved(wide()), "--out", "run")
    words = ("--checkpoint", "run/model", "--solver", solver)
    assert run("impute", saved(wide(30, "D", 4, 5), "gaps.csv"), *words)[0] == 0
    assert np.isfinite(pd.read_csv("imputed.csv")["mean"]).all()


def test_a_record_shorter_than_a_window(run):
    run("train-imputer", saved(wide()), "--out", "run")
    assert run("impute", saved(wide(6, "D", 2), "gaps.csv"), "--checkpoint", "run/model")[0] == 0
    assert len(pd.read_csv("imputed.csv")) == 1


def test_trainings_that_cannot_be(refused):
    data = saved(wide())
    message = refused("train-imputer", data, "--length", "25", "--hold-out", "6")
    assert message == "data.csv: has 30 times; expected at least length 25 + hold_out 6."
    Path("taken").touch()
    assert "taken: is a file" in refused("train-imputer", data, "--out", "taken")
    assert "taken" in refused("train-imputer", data, "--out", "taken/run")
    for words, message in (
        (("--hold-out", "-1"), "hold_out must be at least 0"),
        (("--length", "0"), "length must be at least 1"),
        (("--steps", "0"), "steps must be at least 1"),
        (("--batch", "0"), "batch_size must be at least 1"),
        (("--channels", "9"), "channels must be a multiple of heads 2, but is 9."),
        (("--freq", "fortnight"), "freq is 'fortnight'"),
        (("--time", "dss"), "no time column 'dss'"),
    ):
        assert message in refused("train-imputer", data, "--out", "run", *words)
    assert refused("train-imputer", "nowhere.csv") == "nowhere.csv: no such file."


def test_series_that_share_no_grid(refused):
    table = pd.concat(
        [
            pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2024-01-01", periods=20, freq="7h"), "y": 1.0}),
            pd.DataFrame({"unique_id": "b", "ds": pd.date_range("2024-01-01 00:17", periods=20, freq="5h"), "y": 1.0}),
        ]
    )
    assert "grid" in refused("train-imputer", saved(table), "--out", "run")


@pytest.fixture
def trained(run: Run) -> str:
    run("train-imputer", saved(wide()), "--out", "run")
    return "run/model"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (wide(), "nothing is missing; expected at least one gap to fill."),
        (wide(30, "D", 4).rename(columns={"pulse": "breath"}), "was not trained on series 'breath'; it knows pulse, "),
        (wide(30, "D", 4).assign(breath=12.0), "was not trained on series 'breath'"),
        (wide(30, "D", 4)[["ds", "heat"]], "expects a series 'pulse', which is not among heat."),
        (wide(30, "h", 4), "was trained on series of step 'D'; expected the same, but these are of step '1 h'."),
    ],
    ids=["nothing missing", "another name", "one too many", "one too few", "another step"],
)
def test_tables_that_do_not_fit_the_model(refused, trained, table, message):
    assert message in refused("impute", saved(table, "gaps.csv"), "--checkpoint", trained)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "51"), "steps must be between 1 and 50, but is 51."),
        (("--samples", "0"), "samples must be at least 1"),
        (("--guidance", "2"), "guidance is for TSDiff checkpoints, but run/model is a CSDI one."),
        (("--seconds", "5"), "seconds is for TSDiff checkpoints"),
        (("--likelihood", "mean-square"), "likelihood is for TSDiff checkpoints"),
        (("--form", "published"), "form is for TSDiff checkpoints"),
        (("--out", "gaps.csv"), "is the file that the series are read from"),
    ],
)
def test_requests_that_cannot_be_met(refused, trained, words, message):
    assert message in refused("impute", saved(wide(30, "D", 4), "gaps.csv"), "--checkpoint", trained, *words)


def test_checkpoints_of_another_kind(refused, trained, checkpoint):
    data = saved(wide(40, "D", 4), "gaps.csv")
    assert "'degauss.timeseries/csdi', but 'degauss.timeseries/tsdiff'" in refused(
        "forecast", data, "--checkpoint", trained, "--horizon", "4"
    )
    path = Path(trained) / "config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"format": "degauss.audio/vocoder"}))
    assert "'degauss.audio/vocoder', but" in refused("impute", data, "--checkpoint", trained)
    path.write_text(json.dumps(about | {"config": {"depth": 3}}))
    assert "not that of a CSDI model" in refused("impute", data, "--checkpoint", trained)
    path.write_text("{")
    assert "cannot be read as JSON" in refused("impute", data, "--checkpoint", trained)
    assert "nowhere is no model" in refused("impute", data, "--checkpoint", "nowhere")


def test_a_tsdiff_model_still_fills_each_series_by_itself(run, checkpoint):
    assert run("impute", saved(wide(40, "D", 10), "gaps.csv"), "--checkpoint", checkpoint)[0] == 0
    assert len(pd.read_csv("imputed.csv")) == 1
