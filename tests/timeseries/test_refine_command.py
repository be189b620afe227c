"""`refine` and `synthesize` as a person uses them: tables in, tables out, and one line for what is refused."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

LEVELS = ["q0.05", "q0.1", "q0.25", "q0.5", "q0.75", "q0.9", "q0.95"]
GOOD = ("--step-size", "0.05", "--iterations", "30")
Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def run(checkpoint: Path, invoke: Run) -> Run:
    """A command line -> its exit status, stdout and stderr; quick and small unless it says otherwise."""

    def command(verb: str, *words: str | Path) -> tuple[int, str, str]:
        given = [verb, *map(str, words)]
        quick = {"--checkpoint": checkpoint, "--device": "cpu"}
        quick |= {"--samples": 8} if verb == "refine" else {"--windows": 20, "--steps": 4}
        given += [part for name, value in quick.items() if name not in given for part in (name, str(value))]
        return invoke(given)

    return command


def wave(first: int, count: int, name: str = "a") -> pd.DataFrame:
    """A sine of period 8 about 5, by day, as the model was trained on."""
    values = np.sin(2 * np.pi * np.arange(first, first + count) / 8) + 5
    days = (pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(first, first + count), "D")).strftime("%Y-%m-%d")
    return pd.DataFrame({"unique_id": name, "ds": days, "y": values})


def flat(first: int, count: int = 8, name: str = "a", columns: dict[str, float] | None = None) -> pd.DataFrame:
    """A forecast that knows the mean and no more."""
    return wave(first, count, name).drop(columns="y").assign(**(columns or {"Naive": 5.0}))


def with_cutoff(table: pd.DataFrame, first: int) -> pd.DataFrame:
    return table.assign(cutoff=wave(first - 1, 1)["ds"].iloc[0])


def saved(table: pd.DataFrame, path: str) -> str:
    table.to_csv(path, index=False)
    return path


def history(count: int = 60) -> str:
    return saved(wave(0, count), "history.csv")


# --- refine ---


def test_a_point_forecast_of_the_future(run):
    """It has no past of its own: the last value and the seasonal naive stand in for it."""
    status, out, error = run("refine", history(), saved(flat(60), "flat.csv"), *GOOD, "--plot", "fan.png")
    assert (status, error) == (0, "")
    result = pd.read_csv("refined.csv")
    assert list(result.columns) == ["unique_id", "ds", "cutoff", "mean", *LEVELS]
    assert list(result["ds"]) == list(wave(60, 8)["ds"])
    assert set(result["cutoff"]) == {"2024-02-29"}
    assert (np.diff(result[LEVELS].to_numpy(), axis=1) >= 0).all()
    assert np.corrcoef(result["q0.5"], wave(60, 8)["y"])[0, 1] > 0.8
    report = json.loads(Path("refined.json").read_text())
    assert report["mean_weighted_quantile_loss"]["refined"] < report["mean_weighted_quantile_loss"]["given"]
    assert report["windows"] == 4
    assert report["judged_on"].endswith("which stands in for these forecasts")
    assert report["verdict"] in out
    about = tomllib.loads(Path("refined.toml").read_text())
    assert 1 <= about["provenance"]["representative_step"] <= 100
    assert len(about["provenance"]["checkpoint_sha256"]) == 64
    assert Path("fan.png").read_bytes().startswith(b"\x89PNG")


def test_forecasts_of_several_cutoffs_are_judged_by_themselves(run):
    table = pd.concat([with_cutoff(flat(first), first) for first in (44, 52, 60)])
    status, out, _ = run("refine", history(), saved(table, "flat.csv"), *GOOD, "--keep-samples", "--out", "r.parquet")
    assert status == 0
    report = json.loads(Path("r.json").read_text())
    assert (report["windows"], report["judged_on"]) == (2, "these forecasts")
    # What was given for the past is the mean of the wave: its score is known.
    truth = wave(44, 16)["y"].to_numpy()
    assert report["mean_weighted_quantile_loss"]["given"] == pytest.approx(np.abs(truth - 5).sum() / truth.sum())
    result = pd.read_parquet("r.parquet")
    assert len(result) == 24
    samples = result.filter(like="sample_").to_numpy()
    assert samples.shape == (24, 8)
    np.testing.assert_allclose(result["mean"], samples.mean(1))
    assert "3 forecasts, 8 draws each" in out


def test_what_is_refined_does_not_depend_on_how_it_was_judged(run):
    assert run("refine", history(), saved(flat(60), "one.csv"), *GOOD, "--out", "one_.csv")[0] == 0
    table = pd.concat([with_cutoff(flat(first), first) for first in (52, 60)])
    assert run("refine", "history.csv", saved(table, "two.csv"), *GOOD, "--out", "two_.csv")[0] == 0
    one, two = (pd.read_csv(f"{name}_.csv") for name in ("one", "two"))
    np.testing.assert_allclose(one[LEVELS], two[LEVELS].iloc[8:], rtol=0, atol=1e-4)


def test_quantiles_intervals_and_maximum_likelihood(run):
    quantiles = flat(60, columns={"q0.1": 4.0, "q0.5": 5.0, "q0.9": 6.0})
    models = flat(60, columns={"A": 5.0, "A-lo-80": 4.0, "A-hi-80": 6.0, "B": 0.0})
    words = (*GOOD, "--gamma", "0", "--likelihood", "mean-square")
    assert run("refine", history(), saved(quantiles, "q.csv"), *words)[0] == 0
    first = pd.read_csv("refined.csv")
    assert run("refine", "history.csv", saved(models, "m.csv"), *words, "--column", "A")[0] == 0
    np.testing.assert_allclose(pd.read_csv("refined.csv")[LEVELS], first[LEVELS], rtol=1e-6)


def test_a_resolved_config_repeats_the_run(run):
    run("refine", history(), saved(flat(60), "flat.csv"), *GOOD, "--seed", "3")
    first = Path("refined.csv").read_bytes()
    Path("refined.toml").rename("again.toml")
    assert run("refine", "--config", "again.toml", "--out", "again.csv")[0] == 0
    assert Path("again.csv").read_bytes() == first


def test_it_refuses_what_it_cannot_help(refused):
    """The truth cannot be refined: steps that move it only do harm."""
    table = pd.concat([with_cutoff(wave(first, 8).rename(columns={"y": "Oracle"}), first) for first in (52, 60)])
    message = refused("refine", history(), saved(table, "oracle.csv"), "--plot", "fan.png")
    assert message.startswith("refining does not lower the CRPS (mean weighted quantile loss) of these forecasts: ")
    assert "refined, 0 as given, " in message
    assert "degauss-timeseries train" in message


def test_it_refuses_on_the_naive_forecast_in_its_stead(refused):
    message = refused("refine", history(), saved(flat(60), "flat.csv"), "--step-size", "0.4", "--gamma", "5")
    assert "which stands in for these forecasts" in message
    assert "nothing was written" in message


def test_targets_that_are_zero(refused):
    zero = saved(wave(0, 60).assign(y=0.0), "zero.csv")
    assert "cannot be judged" in refused("refine", zero, saved(flat(60), "flat.csv"))


@pytest.mark.parametrize(
    ("table", "words", "message"),
    [
        (flat(60, name="b"), (), "forecasts series 'b', which is not in history.csv"),
        (flat(61, 3), (), "starts at 2024-03-02, but the series ends at 2024-02-29"),
        (pd.concat([flat(60, 1), flat(62, 3)]), (), "leaves out steps after 2024-03-01"),
        (flat(70), (), "has the time 2024-03-11"),
        (flat(60, 9), (), "has the time 2024-03-09, which is neither a step of the series nor one of the 8"),
        (flat(10), (), "'a' is too short for the context"),
        (flat(60, columns={"a": 1.0, "b": 2.0}), (), "not clear which column"),
        (flat(60), ("--column", "Naiv"), "has no forecast 'Naiv' (did you mean 'Naive'?)"),
        (flat(60), ("--step-size", "-1"), "step_size must be at least 0"),
        (flat(60), ("--step-size", "1e6"), "refining diverged"),
        (flat(60), ("--iterations", "0"), "iterations must be at least 1"),
        (flat(60), ("--backtest", "0"), "backtest must be at least 1"),
        (flat(60), ("--samples", "0"), "samples must be at least 1"),
        (flat(60), ("--quantiles", "1"), "strictly between 0 and 1"),
        (flat(60), ("--out", "refined.xlsx"), "ends in .csv"),
        (flat(60), ("--out", "flat.csv"), "is the file that the series are read from"),
        (flat(60), ("--out", "history.csv"), "is the file that the series are read from"),
        (flat(60), ("--plot", "fan.jpg"), "ends in .png"),
        (flat(60), ("--checkpoint", "nowhere"), "nowhere is no model"),
    ],
)
def test_requests_that_cannot_be_met(refused, table, words, message):
    saved(table, "flat.csv")
    assert message in refused("refine", history(), "flat.csv", *words)


def test_files_that_do_not_go_together(refused):
    history()
    assert refused("refine", "history.csv", "nowhere.csv") == "nowhere.csv: no such file."
    saved(pd.concat([wave(0, 60), wave(0, 60, "b")]), "two.csv")
    saved(flat(60).drop(columns="unique_id"), "plain.csv")
    assert "has no id column, but two.csv has 2 series" in refused("refine", "two.csv", "plain.csv")
    saved(flat(20), "early.csv")
    assert "to try refining on its past" in refused("refine", saved(wave(0, 20), "short.csv"), "early.csv")


# --- synthesize ---


def test_synthesize(run):
    status, out, error = run("synthesize", history(200))
    assert (status, error) == (0, "")
    result = pd.read_csv("synthetic.csv")
    assert list(result.columns) == ["unique_id", "ds", "y"]
    assert len(result) == 20 * 32
    assert list(result["ds"][:32]) == list(range(32))
    assert result["y"].between(0, 10).all()  # about 5, as the series
    assert result.groupby("unique_id")["y"].std().mean() > 0.2
    scores = json.loads(Path("synthetic.json").read_text())
    assert scores["linear predictor (LPS)"].keys() == {"synthetic windows", "real windows"}
    assert scores["linear predictor (LPS)"]["real windows"] < scores["last value"]
    assert scores["test windows"] == 4
    assert "linear predictor" in out
    assert f"last value {scores['last value']:.4g}" in out
    assert len(tomllib.loads(Path("synthetic.toml").read_text())["provenance"]["checkpoint_sha256"]) == 64


def test_synthesize_arrays_and_several_series(run):
    table = pd.concat([wave(0, 100), wave(0, 100, "b").assign(y=lambda t: 1000 * t["y"])])
    assert run("synthesize", saved(table, "two.csv"), "--out", "s.npz", "--solver", "ddim")[0] == 0
    with np.load("s.npz", allow_pickle=False) as arrays:
        assert arrays["values"].shape == (20, 32)
        size = arrays["centre"][:, 0]
        inner = (arrays["values"] - arrays["centre"]) / arrays["width"]
    assert (np.isclose(size, 5, atol=1) | np.isclose(size, 5000, atol=1000)).all()
    assert len(np.unique(size > 100)) == 2
    assert np.abs(inner).max() < 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--windows", "0"), "windows must be at least 1"),
        (("--steps", "101"), "steps must be between 1 and 100"),
        (("--test", "0"), "windows must be at least 1"),
        (("--out", "s.json"), "ends in .csv or .tsv or .parquet or .npz"),
        (("--out", "history.csv"), "is the file that the series are read from"),
    ],
)
def test_synthesis_that_cannot_be(refused, words, message):
    assert message in refused("synthesize", history(200), *words)


def test_series_too_short_to_synthesize(refused):
    assert "no series ends in 32 values without a gap" in refused("synthesize", history(31))
    assert "training needs at least 24" in refused("synthesize", history(50))
