"""The command line as a person uses it: files in, files out, and one line for what cannot be done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from degauss.timeseries.windows import RandomWindows

LEVELS = ["q0.05", "q0.1", "q0.25", "q0.5", "q0.75", "q0.9", "q0.95"]
Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def run(checkpoint: Path, invoke: Run) -> Run:
    """A command line -> its exit status, stdout and stderr; quick and small unless it says otherwise."""

    def command(verb: str, *words: str | Path) -> tuple[int, str, str]:
        given = [verb, *map(str, words)]
        quick = {"--checkpoint": checkpoint, "--samples": 8, "--steps": 4, "--device": "cpu"}
        if verb != "impute":
            quick["--horizon"] = 8
        if verb == "train":
            quick = {"--steps": 4, "--device": "cpu", "--horizon": 4, "--context": 12, "--hidden": 4, "--blocks": 1}
            quick |= {"--state": 4, "--batch": 4}
        if "--config" not in given:
            given += [part for name, value in quick.items() if name not in given for part in (name, str(value))]
        return invoke(given)

    return command


def frame(count: int = 60, *missing: int, name: str = "a") -> pd.DataFrame:
    values = np.sin(2 * np.pi * np.arange(count) / 8) + 5
    values[list(missing)] = np.nan
    days = pd.date_range("2024-01-01", periods=count).strftime("%Y-%m-%d")
    return pd.DataFrame({"unique_id": name, "ds": days, "y": values})


def saved(table: pd.DataFrame | None = None, path: str = "data.csv") -> Path:
    (frame() if table is None else table).to_csv(path, index=False)
    return Path(path)


def is_png(path: str) -> bool:
    return Path(path).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


# --- forecast ---


def test_forecast(run):
    status, out, error = run("forecast", saved(), "--plot", "fan.png")
    assert (status, error) == (0, "")
    result = pd.read_csv("forecast.csv")
    assert list(result.columns) == ["unique_id", "ds", "cutoff", "mean", *LEVELS]
    assert list(result["ds"]) == [f"2024-03-{day:02d}" for day in range(1, 9)]
    assert set(result["unique_id"]) == {"a"}
    assert set(result["cutoff"]) == {"2024-02-29"}
    assert (np.diff(result[LEVELS].to_numpy(), axis=1) >= 0).all()
    assert result["mean"].between(2, 8).all()
    assert is_png("fan.png")
    about = tomllib.loads(Path("forecast.toml").read_text())
    assert about["steps"] == about["provenance"]["steps_taken"] == 4
    assert len(about["provenance"]["checkpoint_sha256"]) == 64
    scores = json.loads(Path("forecast.json").read_text())
    assert set(scores["scores"]) == {"TSDiff", "last value", "seasonal naive"}
    assert len(scores["windows"]) == 2
    assert scores["verdict"] in out
    assert "wrote forecast.csv: 1 series, 8 steps, 8 samples each" in out


def test_a_resolved_config_repeats_the_run(run):
    run("forecast", saved(), "--seed", "3", "--keep-samples", "--backtest", "0", "--quantiles", "0.9", "0.1")
    first = pd.read_csv("forecast.csv")
    assert list(first.columns[3:]) == ["mean", "q0.1", "q0.9", *(f"sample_{k}" for k in range(8))]
    samples = first.filter(like="sample_").to_numpy()
    np.testing.assert_allclose(first["mean"], samples.mean(1))
    np.testing.assert_allclose(first["q0.9"], np.quantile(samples, 0.9, axis=1))
    assert not Path("forecast.json").exists()
    os.rename("forecast.toml", "again.toml")
    assert run("forecast", "--config", "again.toml", "--out", "again.csv")[0] == 0
    assert Path("again.csv").read_bytes() == Path("forecast.csv").read_bytes()
    run("forecast", "data.csv", "--seed", "4", "--out", "other.csv", "--backtest", "0")
    assert not np.allclose(pd.read_csv("other.csv")["mean"], first["mean"])


def test_several_long_series_in_parquet(run):
    table = pd.concat([frame(name="a/b"), frame(50, 7, 30, name="c")])
    table = table.assign(ds=pd.to_datetime(table["ds"])).sample(frac=1, random_state=0)
    table.to_parquet("data.parquet", index=False)
    status, _, _ = run("forecast", "data.parquet", "--out", "deep/er/f.parquet", "--plot", "fan.png")
    assert status == 0
    result = pd.read_parquet("deep/er/f.parquet")
    assert dict(result.groupby("unique_id").size()) == {"a/b": 8, "c": 8}
    assert result["ds"].dtype.kind == result["cutoff"].dtype.kind == "M"
    assert is_png("fan-a_b.png")
    assert is_png("fan-c.png")
    assert len(json.loads(Path("deep/er/f.json").read_text())["windows"]) == 4


def test_a_wide_table(run):
    wide = frame().assign(b=3 * frame()["y"]).rename(columns={"y": "a", "ds": "date"}).drop(columns="unique_id")
    assert run("forecast", saved(wide), "--out", "f.tsv", "--backtest", "0")[0] == 0
    result = pd.read_csv("f.tsv", sep="\t")
    assert list(result.columns[:3]) == ["unique_id", "date", "cutoff"]
    means = result.groupby("unique_id", sort=False)["mean"].mean()
    assert list(means.index) == ["a", "b"]
    assert means["b"] > 2 * means["a"]


def test_columns_by_name(run):
    table = frame().rename(columns={"unique_id": "shop", "ds": "when", "y": "sales"}).assign(temperature=7.0)
    names = ("--id", "shop", "--time", "when", "--target", "sales")
    assert run("forecast", saved(table), *names, "--backtest", "0")[0] == 0
    assert list(pd.read_csv("forecast.csv").columns[:4]) == ["shop", "when", "cutoff", "mean"]


def test_whole_numbers_and_a_step(run):
    table = frame().assign(ds=np.arange(60) * 10)
    assert run("forecast", saved(table), "--backtest", "0", "--horizon", "2", "--freq", "10")[0] == 0
    assert list(pd.read_csv("forecast.csv")["ds"]) == [600, 610]


@pytest.mark.parametrize("solver", ["dpmpp", "ancestral"])
def test_other_ways_to_sample(run, solver):
    words = ("--solver", solver, "--likelihood", "mean-square", "--guidance", "8", "--backtest", "0")
    assert run("forecast", saved(), *words)[0] == 0
    assert pd.read_csv("forecast.csv")["mean"].between(0, 10).all()


def test_a_budget_is_recorded(run):
    status, out, error = run("forecast", saved(), "--seconds", "1000", "--backtest", "0")
    assert (status, error) == (0, "")
    assert tomllib.loads(Path("forecast.toml").read_text())["provenance"]["steps_taken"] == 4
    budget = json.loads(Path("forecast.json").read_text())["budget"]
    assert (budget["taken"], budget["lost"], budget["curve"]) == ({"steps": 4, "samples": 8}, 0.0, [])
    assert budget["sentence"] in out


def test_a_series_too_short_to_judge_is_forecast_all_the_same(run):
    status, out, error = run("forecast", saved(frame(20)))
    assert (status, error) == (0, "")
    assert "No series is long enough to score the model on its own past" in out
    assert not Path("forecast.json").exists()


@pytest.mark.parametrize("values", [np.zeros(60), np.full(60, 7.0)])
def test_a_constant_series_has_a_report_in_json(run, values):
    status, _, error = run("forecast", saved(frame().assign(y=values)))
    assert (status, error) == (0, "")
    assert json.loads(Path("forecast.json").read_text())["skill"]["last value"] is None


def test_an_earlier_forecast_is_replaced_whole(run, refused):
    Path("forecast.csv").write_text("old")
    refused("forecast", saved(), "--horizon", "9")
    assert Path("forecast.csv").read_text() == "old"
    assert run("forecast", "data.csv")[0] == 0
    assert Path("forecast.csv").read_text() != "old"


# --- impute ---


def test_impute(run):
    table = pd.concat([frame(60, 10, 11, 40), frame(60, name="whole"), frame(60, 5, name="c")])
    status, out, error = run("impute", saved(table), "--complete", "whole.csv", "--plot", "gaps.png")
    assert (status, error) == (0, "")
    result = pd.read_csv("imputed.csv")
    assert list(result.columns) == ["unique_id", "ds", "mean", *LEVELS]
    assert list(zip(result["unique_id"], result["ds"], strict=True)) == [
        ("a", "2024-01-11"), ("a", "2024-01-12"), ("a", "2024-02-10"), ("c", "2024-01-06"),
    ]  # fmt: skip
    whole = pd.read_csv("whole.csv")
    assert list(whole.columns) == ["unique_id", "ds", "y"]
    known = table["y"].notna().to_numpy()
    np.testing.assert_allclose(whole["y"][known], table["y"][known])
    np.testing.assert_allclose(whole["y"][~known], result["q0.5"])
    assert is_png("gaps-a.png")
    assert is_png("gaps-c.png")
    assert not Path("gaps-whole.png").exists()
    assert "4 values filled in 2 series" in out
    assert tomllib.loads(Path("imputed.toml").read_text())["provenance"]["samples_taken"] == 8


def test_missing_rows_are_gaps(run):
    table = frame().drop(index=[20, 21])
    assert run("impute", saved(table), "--out", "gaps.parquet", "--keep-samples")[0] == 0
    result = pd.read_parquet("gaps.parquet")
    assert list(result["ds"]) == ["2024-01-21", "2024-01-22"]
    assert "sample_7" in result


def test_nothing_to_impute(refused):
    assert refused("impute", saved()) == "data.csv: nothing is missing; expected at least one gap to fill."


def test_a_gap_too_long_leaves_nothing_behind(refused):
    table = pd.concat([frame(60, 10), frame(100, *range(20, 80), name="b")])
    message = refused("impute", saved(table), "--plot", "gaps.png", "--complete", "whole.csv")
    assert "series 'b' has" in message


# --- backtest ---


def test_backtest(run):
    table = frame(60, 55, 58)
    words = ("--windows", "3", "--plot", "figures/b.png", "--out", "new/b.json", "--seconds", "1000")
    status, out, error = run("backtest", saved(table), *words)
    assert (status, error) == (0, "")
    report = json.loads(Path("new/b.json").read_text())
    assert [(window["cutoff"], window["cutoff_index"]) for window in report["windows"]] == [
        ("2024-02-05", 36), ("2024-02-13", 44), ("2024-02-21", 52),
    ]  # fmt: skip
    methods = {"TSDiff", "last value", "seasonal naive"}
    assert set(report["windows"][0]["scores"]) == set(report["scores"]) == set(report["pit_distance"]) == methods
    assert {f"{name}_{level}" for name in ("coverage", "winkler") for level in (50, 80, 90)} | {
        "mean_weighted_quantile_loss", "csdi_quantile_loss", "crps", "mase", "nd",
    } == set(report["scores"]["last value"])  # fmt: skip
    assert report["targets"] == {"scored": 22, "not_observed": 2}
    assert report["windows_left_out"] == 0
    assert report["verdict"] in out
    assert report["budget"]["sentence"] in out
    for words in ("csdi_quantile_loss", "seasonal naive", "22 values in 3 windows; 2 were not observed"):
        assert words in out
    for name in ("windows", "pit", "missing"):
        assert is_png(f"figures/b-{name}.png")
    assert not Path("figures/b-budget.png").exists()  # nothing had to be tried
    assert tomllib.loads(Path("new/b.toml").read_text())["windows"] == 3
    cells = pd.read_csv("new/b.csv")
    assert list(cells.columns[:6]) == ["unique_id", "ds", "cutoff", "y", "TSDiff", "TSDiff-median"]
    assert {"TSDiff-lo-90", "Naive-hi-50", "SeasonalNaive"} < set(cells.columns)
    assert len(cells) == 22
    known = table.dropna().set_index("ds")["y"]
    np.testing.assert_allclose(cells["y"], known[cells["ds"]])
    assert list(cells["cutoff"].unique()) == ["2024-02-05", "2024-02-13", "2024-02-21"]
    inside = cells["y"].between(cells["TSDiff-lo-80"], cells["TSDiff-hi-80"]).mean()
    assert inside == pytest.approx(report["scores"]["TSDiff"]["coverage_80"])


def test_a_backtest_in_the_words_of_the_file(run):
    table = pd.concat([frame(name="7"), frame(50, name="8")]).astype({"unique_id": int})
    table = table.rename(columns={"unique_id": "shop", "ds": "day", "y": "sales"})
    table["day"] = pd.to_datetime(table["day"]).dt.tz_localize("Europe/Berlin")
    table.to_parquet("data.parquet", index=False)
    words = ("--id", "shop", "--time", "day", "--target", "sales", "--table", "t.parquet", "--windows", "4")
    status, _, error = run("backtest", "data.parquet", *words, "--season", "8", "--plot", "b.png")
    assert (status, error) == (0, "")
    cells = pd.read_parquet("t.parquet")
    assert list(cells.columns[:4]) == ["shop", "day", "cutoff", "sales"]
    assert cells["shop"].dtype == np.int64
    assert cells["day"].dt.tz is not None
    merged = cells.merge(table, on=["shop", "day"], suffixes=("", "_known"))
    assert len(merged) == len(cells)
    np.testing.assert_allclose(merged["sales"], merged["sales_known"])
    assert is_png("b-windows-7.png")
    assert is_png("b-windows-8.png")
    report = json.loads(Path("backtest.json").read_text())
    assert {window["season"] for window in report["windows"]} == {8}
    assert report["windows_left_out"] == 0
    assert report["scores"]["seasonal naive"]["crps"] == pytest.approx(0, abs=1e-12)  # the season of the sine


def test_a_backtest_on_whole_numbers(run):
    assert run("backtest", saved(frame().assign(ds=np.arange(60) * 10)), "--freq", "10")[0] == 0
    report = json.loads(Path("backtest.json").read_text())
    assert report["windows"][-1]["cutoff"] == 510
    assert list(pd.read_csv("backtest.csv")["cutoff"].unique()) == [270, 350, 430, 510]


def test_a_tight_budget_shows_its_curve(run, monkeypatch):
    from degauss.timeseries import budget

    monkeypatch.setattr(budget, "price", lambda *_: 1e-3)
    words = ("--seconds", "18", "--steps", "50", "--samples", "40", "--windows", "9", "--plot", "b.png")
    status, out, error = run("backtest", saved(frame(140)), *words)
    assert (status, error) == (0, "")
    told = json.loads(Path("backtest.json").read_text())["budget"]
    assert [trial["steps"] for trial in told["curve"]] == [5, 10, 20]
    assert told["taken"] in [{"steps": one["steps"], "samples": one["samples"]} for one in told["curve"]]
    assert (told["reference"]["steps"], told["reference"]["samples"]) == (50, 21)
    assert (told["validation_windows"], told["validation_targets"]) == (3, 24)
    assert told["sentence"] in out
    assert is_png("b-budget.png")
    about = tomllib.loads(Path("backtest.toml").read_text())["provenance"]
    assert (about["steps_taken"], about["samples_taken"]) == (told["taken"]["steps"], told["taken"]["samples"])


def test_a_backtest_needs_a_past(refused):
    assert "long enough for a backtest" in refused("backtest", saved(frame(20)))
    assert refused("backtest", "data.csv", "--windows", "0") == "windows must be at least 1, but is 0."
    assert refused("backtest", saved(), "--step", "0") == "step must be at least 1, but is 0."
    assert "expected a name that ends in .json" in refused("backtest", "data.csv", "--out", "b.csv")
    assert "the file that the series are read from" in refused("backtest", "data.csv", "--out", "data.json")
    assert "expected a name that ends in .csv" in refused("backtest", "data.csv", "--table", "b.json")
    assert "ends in .png" in refused("backtest", "data.csv", "--plot", "b.svg")
    assert refused("backtest", "data.csv", "--season", "0") == "season must be at least 1, but is 0."
    assert "horizon must be between 1 and 8" in refused("backtest", "data.csv", "--horizon", "9")
    assert "seconds must be at least" in refused("backtest", "data.csv", "--seconds", "0")


# --- train ---


def weights(folder: str) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in load_file(f"{folder}/model/model.safetensors").items()}


def test_train_and_use(run):
    status, out, error = run("train", saved(), "--out", "run", "--lags", "7", "14", "--scaling", "mean")
    assert (status, error) == (0, "")
    assert "wrote run/model after 4 steps" in out
    config = json.loads(Path("run/model/config.json").read_text())["config"]
    assert (config["lags"], config["scaling"], config["context"], config["min_context"]) == ([7, 14], "mean", 12, 12)
    assert run("forecast", "data.csv", "--checkpoint", "run/model", "--horizon", "4")[0] == 0
    again, *_ = run("train", "--config", "run/train.toml", "--out", "again")
    assert again == 0
    for name, value in weights("run").items():
        np.testing.assert_array_equal(weights("again")[name], value)


def test_a_stopped_training_goes_on_to_the_same_model(run, monkeypatch):
    run("train", saved(), "--out", "whole")
    drawn = RandomWindows.__call__

    def stopping(self, samples):
        if samples[0] >= 8:  # in the third step
            signal.raise_signal(signal.SIGINT)
        return drawn(self, samples)

    with monkeypatch.context() as patched:
        patched.setattr(RandomWindows, "__call__", stopping)
        status, _, error = run("train", "data.csv", "--out", "parts")
    assert status == 130
    assert error.count("\n") == 1
    assert "Stopped by SIGINT after step" in error
    assert not Path("parts/model").exists()
    assert run("train", "data.csv", "--out", "parts")[0] == 0
    for name, value in weights("whole").items():
        np.testing.assert_array_equal(weights("parts")[name], value)


def test_what_is_held_out_is_not_trained_on(run, monkeypatch):
    seen: list[np.ndarray] = []
    made = RandomWindows.__post_init__

    def looking(self):
        seen.extend(self.series)
        made(self)

    monkeypatch.setattr(RandomWindows, "__post_init__", looking)
    table = pd.concat([frame(60), frame(3, name="short")])
    assert run("train", saved(table), "--out", "run", "--hold-out", "4")[0] == 0
    np.testing.assert_allclose(seen[0], frame(60)["y"][:56])
    assert len(seen[1]) == 0


def test_trainings_that_cannot_be(refused):
    message = refused("train", saved(frame(19)), "--out", "run")
    assert message == (
        "data.csv: the longest series has 19 values; expected at least min_context 12 + horizon 4 + hold_out 4."
    )
    Path("taken").touch()
    assert "taken: is a file" in refused("train", saved(), "--out", "taken")
    assert "taken" in refused("train", saved(), "--out", "taken/run")
    assert "steps must be at least 1" in refused("train", saved(), "--out", "run", "--steps", "0")
    assert "hold_out must be at least 0" in refused("train", saved(), "--out", "run", "--hold-out", "-1")
    assert "context must be at least 1" in refused("train", saved(), "--out", "run", "--context", "0")
    assert "lags must be at least 1" in refused("train", saved(), "--out", "run", "--lags", "0")


# --- bad input ---


def wide(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=40).strftime("%Y-%m-%d"), **columns})


DAY = frame()["ds"]
BAD_TABLES = {
    "empty": (b"", "is empty"),
    "binary": (b"\x00\x01\x02\x03" * 50, "is not a text table"),
    "prose": (b"Dear Sir or Madam\nplease find\n", "only one column"),
    "half a parquet file": (b"PAR1" + b"\x00" * 100, "not a whole parquet file"),
    "header only": (b"ds,y\n", "no rows"),
    "no numbers": (b"ds,what\n2024-01-01,x\n2024-01-02,z\n", "no column of numbers"),
    "text among numbers": (frame().astype({"y": object}).replace({"y": {5.0: "five"}}), "expected a number"),
    "no time": (frame().assign(ds="soon"), "expected dates"),
    "one bad time": (frame().replace({"ds": {"2024-01-09": "2024-13-09"}}), "'2024-13-09'; expected dates"),
    "a time twice": (frame().replace({"ds": {"2024-01-09": "2024-01-08"}}), "'a' has 2024-01-08 twice"),
    "all missing": (frame().assign(y=np.nan), "all 60 are missing"),
    "infinite": (frame().replace({"y": {5.0: np.inf}}), "infinite value"),
    "too short": (frame(15), "'a' is too short for the context of this checkpoint: 15 observed"),
    "too sparse": (frame(60, *range(40, 55)), "9 observed values among its last 24"),
    "one row": (frame(1), "1 time stamp"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_tables_that_cannot_be_forecast(refused, case):
    content, message = BAD_TABLES[case]
    if isinstance(content, bytes):
        Path("data.csv").write_bytes(content)
    else:
        saved(content)
    assert message in refused("forecast", "data.csv", "--plot", "fan.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--id", "shop"), "no id column 'shop'"),
        (("--time", "dss"), "no time column 'dss' (did you mean 'ds'?)"),
        (("--target", "sales"), "no target column 'sales'"),
        (("--freq", "fortnight"), "freq is 'fortnight'"),
        (("--horizon", "0"), "horizon must be between 1 and 8, but is 0."),
        (("--horizon", "9"), "horizon must be between 1 and 8, but is 9."),
        (("--samples", "0"), "samples must be at least 1"),
        (("--steps", "0"), "steps must be between 1 and 100"),
        (("--steps", "101"), "steps must be between 1 and 100"),
        (("--seconds", "0"), "seconds must be at least"),
        (("--guidance", "-1"), "guidance must be at least 0"),
        (("--backtest", "-1"), "backtest must be at least 0"),
        (("--quantiles", "0.5", "1"), "strictly between 0 and 1, but are (0.5, 1.0)"),
        (("--quantiles", "0"), "strictly between 0 and 1"),
        (("--quantiles", "nan"), "strictly between 0 and 1"),
        (("--out", "forecast.xlsx"), "ends in .csv or .tsv or .parquet"),
        (("--out", "forecast"), "ends in .csv"),
        (("--out", "data.csv"), "is the file that the series are read from"),
        (("--out", "folder.csv"), "is a directory"),
        (("--out", "data.csv/forecast.csv"), "is not a directory"),
        (("--plot", "fan.jpg"), "ends in .png"),
        (("--checkpoint", "nowhere"), "nowhere is no model"),
        (("--checkpoint", "data.csv"), "data.csv is no model"),
        (("--checkpoint", "folder.csv"), "config.json does not exist"),
        (("--config", "nowhere.toml"), "cannot be read"),
    ],
)
def test_requests_that_cannot_be_met(refused, words, message):
    saved()
    Path("folder.csv").mkdir()
    assert message in refused("forecast", "data.csv", *words)


def test_a_file_that_is_not_there(refused):
    assert refused("forecast", "nowhere.csv") == "nowhere.csv: no such file."


def test_a_process_says_one_line_and_no_more(checkpoint):
    """With nothing captured and no warning silenced: what libraries print as they load would show here."""
    script = "from degauss.timeseries.cli import main; raise SystemExit(main())"
    words = ["forecast", str(saved()), "--checkpoint", str(checkpoint), "--horizon", "9"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "degauss-timeseries: error: horizon must be between 1 and 8, but is 9.\n"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_to(refused):
    Path("locked").mkdir(mode=0o500)
    assert "cannot be written" in refused("forecast", saved(), "--out", "locked/forecast.csv")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: truncate(folder / "model.safetensors", 0.5), "cut short"),
        (lambda folder: truncate(folder / "model.safetensors", 0.0), "cut short"),
        (lambda folder: truncate(folder / "config.json", 0.5), "cannot be read as JSON"),
        (lambda folder: rewrite(folder, format="degauss.audio/vocoder"), "'degauss.audio/vocoder', but"),
        (lambda folder: rewrite(folder, format_version=99), "newer Degauss"),
        (lambda folder: rewrite(folder, config={"depth": 3}), "not that of a TSDiff model"),
        (lambda folder: rewrite(folder, config={"horizon": "long"}), "not that of a TSDiff model"),
        (lambda folder: rewrite(folder, config={"hidden": 16}), "does not fit the network"),
        (lambda folder: (folder / "model.safetensors").unlink(), "does not exist"),
    ],
)
def test_checkpoints_that_are_none(refused, checkpoint, spoil, message):
    shutil.copytree(checkpoint, "spoilt")
    spoil(Path("spoilt"))
    assert message in refused("forecast", saved(), "--checkpoint", "spoilt")


def truncate(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def rewrite(folder: Path, **changes: object) -> None:
    about = json.loads((folder / "config.json").read_text())
    if isinstance(changes.get("config"), dict):
        changes["config"] = about["config"] | changes["config"]
    (folder / "config.json").write_text(json.dumps(about | changes))
