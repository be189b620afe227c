"""`train-generator`, `generate` and `card` as a person uses them: a table in, synthetic windows and a card out."""

from __future__ import annotations

import json
import re
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from degauss.timeseries.padts import Batches

Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("here")
QUICK: dict[str, dict[str, object]] = {
    "train-generator": {"--steps": 4, "--length": 8, "--hidden": 8, "--heads": 2, "--decoders": 1, "--batch": 8},
    "generate": {"--steps": 2, "--count": 6},
    "card": {"--repeats": 1, "--judge-steps": 2},
}


@pytest.fixture
def run(invoke: Run) -> Run:
    """A command line -> its exit status, stdout and stderr; quick and small unless it says otherwise."""

    def command(verb: str, *words: str | Path) -> tuple[int, str, str]:
        given = [verb, *map(str, words), "--device", "cpu"]
        if "--config" not in given:
            given += [part for name, value in QUICK[verb].items() if name not in given for part in (name, str(value))]
        return invoke(given)

    return command


def wide(count: int = 200) -> pd.DataFrame:
    noise = np.random.default_rng(0).normal(size=count)
    days = pd.date_range("2020-01-01", periods=count).strftime("%Y-%m-%d")
    angle = 2 * np.pi * np.arange(count) / 8
    return pd.DataFrame({"ds": days, "north": 20 + 5 * np.sin(angle) + noise, "south": 300 - 9 * np.sin(angle) - noise})


def patients(count: int = 8) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    parts = [
        pd.DataFrame({"who": k, "hour": range(20), "heart": rng.normal(80, 9, 20), "lung": rng.normal(15, 2, 20)})
        for k in range(count)
    ]
    return pd.concat(parts)


def saved(table: pd.DataFrame, path: str = "data.csv") -> Path:
    table.to_csv(path, index=False)
    return Path(path)


def weights(folder: str) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in load_file(f"{folder}/model/model.safetensors").items()}


# --- what it is for ---


def test_from_a_table_to_its_card(run):
    status, out, error = run("train-generator", saved(wide()), "--out", "run")
    assert (status, error) == (0, "")
    assert re.search(r"wrote run/model after 4 steps on \d+ windows; sample it in (10|20|50)\n", out)

    status, out, error = run("generate", "--checkpoint", "run/model")
    assert (status, error) == (0, "")
    assert out == "wrote synthetic.csv: 6 windows of 8 steps, 2 series\n"
    assert json.loads(Path("run/model/config.json").read_text())["config"]["facts"]["sampling_steps"] in (10, 20, 50)
    made = pd.read_csv("synthetic.csv")
    assert list(made.columns) == ["window", "step", "north", "south"]
    assert list(made["window"]) == [k for k in range(6) for _ in range(8)]
    assert list(made["step"]) == [*range(8)] * 6
    assert made["north"].between(wide()["north"].min(), wide()["north"].max()).all()
    assert made["south"].between(wide()["south"].min(), wide()["south"].max()).all()
    assert len(tomllib.loads(Path("synthetic.toml").read_text())["provenance"]["checkpoint_sha256"]) == 64

    status, out, error = run("card", "data.csv", "--checkpoint", "run/model", "--count", "20", "--steps", "2")
    assert (status, error) == (0, "")
    numbers = json.loads(Path("card.json").read_text())
    assert all(sentence in out for sentence in numbers["words"])
    assert numbers["windows"]["synthetic"] == 20
    assert numbers["training"]["alpha"] == 5e-4
    assert numbers["training"]["sampling_steps"] == 2
    assert [score["above_floor"] for score in numbers["scores"][:1]] == [True]  # four steps teach nothing
    assert Path("card.html").read_text().startswith("<!doctype html>")
    assert tomllib.loads(Path("card.toml").read_text())["repeats"] == 1


def test_a_record_for_each_patient(run):
    words = (saved(patients()), "--id", "who", "--time", "hour", "--columns", "lung", "heart")
    assert run("train-generator", *words, "--out", "run", "--hold-out", "0.25")[0] == 0
    about = json.loads(Path("run/model/config.json").read_text())["config"]
    assert about["names"] == ["lung", "heart"]
    assert about["facts"]["windows"] == 6 * 13  # six of eight patients
    assert run("generate", "--checkpoint", "run/model", "--out", "made.parquet")[0] == 0
    assert list(pd.read_parquet("made.parquet").columns) == ["window", "step", "lung", "heart"]
    status, out, _ = run("card", *words, "--checkpoint", "run/model", "--count", "15", "--steps", "2")
    assert status == 0
    assert "FDDS against held-out windows" in out


def test_anybodys_windows_are_judged(run):
    """Real rows of another table: they are as good as real."""
    other = pd.concat([wide().iloc[k : k + 8].assign(window=k, step=range(8)) for k in range(0, 190, 3)])
    saved(other.drop(columns="ds"), "made.csv")
    status, out, error = run("card", saved(wide()), "--synthetic", "made.csv", "--out", "c.html")
    assert (status, error) == (0, "")
    numbers = json.loads(Path("c.json").read_text())
    assert numbers["windows"]["synthetic"] == 64
    assert numbers["copies"]["flagged"]  # most of them are training windows
    assert "are copies" in out
    floor, found = (numbers["scores"][0][side][0] for side in ("floor", "synthetic"))
    assert found < 5 * floor


def test_it_repeats_from_its_settings_and_goes_on_exactly(run, monkeypatch):
    assert run("train-generator", saved(wide()), "--out", "whole")[0] == 0
    assert run("train-generator", "--config", "whole/train.toml", "--out", "again")[0] == 0
    drawn = Batches.__call__

    def stopping(self, samples):
        if samples[0] >= 16:  # in the third step
            signal.raise_signal(signal.SIGINT)
        return drawn(self, samples)

    with monkeypatch.context() as patched:
        patched.setattr(Batches, "__call__", stopping)
        status, _, error = run("train-generator", "data.csv", "--out", "parts")
    assert status == 130
    assert "Stopped by SIGINT after step" in error
    assert not Path("parts/model").exists()
    assert run("train-generator", "data.csv", "--out", "parts")[0] == 0
    for name, value in weights("whole").items():
        np.testing.assert_array_equal(weights("again")[name], value)
        np.testing.assert_array_equal(weights("parts")[name], value)


def test_what_is_held_out_is_not_trained_on(run, monkeypatch):
    seen: list[np.ndarray] = []
    made = Batches.__call__

    def looking(self, samples):
        seen.append(self.windows.numpy())
        return made(self, samples)

    monkeypatch.setattr(Batches, "__call__", looking)
    table = wide()
    table.loc[180:, "north"] = 1e6  # the last block's held-out part is the end of the table
    assert run("train-generator", saved(table), "--out", "run", "--hold-out", "0.2")[0] == 0
    assert seen[0].max() <= 1 + 1e-6
    about = json.loads(Path("run/model/config.json").read_text())["config"]
    assert about["high"][0] < 100  # nor does it decide the scales


def test_other_objectives(run):
    assert run("train-generator", saved(wide()), "--out", "a", "--objective", "diffusion-ts")[0] == 0
    assert run("train-generator", "data.csv", "--out", "b", "--alpha", "0")[0] == 0
    one = wide()[["ds", "north"]]
    assert run("train-generator", saved(one, "one.csv"), "--out", "c", "--alpha", "0")[0] == 0
    assert run("card", "one.csv", "--checkpoint", "c/model", "--count", "15", "--steps", "2")[0] == 0
    assert "FDDS" not in Path("card.html").read_text()


# --- bad input ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--length", "100"), "no held-out window of 100 rows"),
        (("--length", "1"), "length must be at least 2"),
        (("--hold-out", "0.9"), "hold_out must be between 0.01 and 0.5, but is 0.9."),
        (("--alpha", "-1"), "alpha must be at least 0"),
        (("--steps", "0"), "steps must be at least 1"),
        (("--heads", "3"), "a multiple of heads 3"),
        (("--columns", "nord"), "no target column 'nord' (did you mean 'north'?)"),
        (("--columns", "north"), "has 1 series, and the population loss compares pairs; expected --alpha 0."),
        (("--id", "who"), "name its features with --columns"),
        (("--out", "data.csv"), "is a file; expected a directory"),
    ],
)
def test_trainings_that_cannot_be(refused, words, message):
    out = () if "--out" in words else ("--out", "run")
    assert message in refused("train-generator", saved(wide()), *words, *out)


def test_a_series_called_as_the_output_is(refused):
    table = wide().rename(columns={"south": "step"})
    assert "has a series called 'step'" in refused("train-generator", saved(table), "--out", "run")


def test_cards_and_windows_that_cannot_be(run, refused):
    assert run("train-generator", saved(wide()), "--out", "run")[0] == 0
    model = ("--checkpoint", "run/model")
    assert "either --checkpoint or --synthetic" in refused("card", "data.csv")
    assert "either --checkpoint or --synthetic" in refused("card", "data.csv", *model, "--synthetic", "data.csv")
    assert "expected a name that ends in .html" in refused("card", "data.csv", *model, "--out", "card.pdf")
    assert "nowhere is no model" in refused("card", "data.csv", "--checkpoint", "nowhere")
    saved(wide(199), "other.csv")
    assert "holds other windows than run/model was trained on" in refused("card", "other.csv", *model)
    saved(wide().rename(columns={"north": "east"}), "renamed.csv")
    assert "was trained on ['north', 'south']" in refused("card", "renamed.csv", *model)
    assert "judge needs at least 10" in refused("card", "data.csv", *model, "--count", "5", "--steps", "2")
    assert "count must be at least 1" in refused("generate", *model, "--count", "0")
    assert "steps must be at least 1" in refused("generate", *model, "--steps", "0")
    assert "ends in .csv or .tsv or .parquet" in refused("generate", *model, "--out", "made.xlsx")


def test_synthetic_tables_that_are_none(refused):
    whole = pd.concat([wide().iloc[k : k + 8, 1:].assign(window=k, step=range(8)) for k in range(12)])
    cases = {
        "no id column 'window'": whole.drop(columns="window"),
        "no time column 'step'": whole.drop(columns="step"),
        "no target column 'north'": whole.drop(columns="north"),
        "window 1 has 8 steps, but window 0 has 7": whole.iloc[1:],
        "window 0 has no value of 'south' at some step": whole.assign(south=[np.nan, *whole["south"][1:]]),
    }
    for message, table in cases.items():
        saved(table, "made.csv")
        found = refused("card", saved(wide()), "--synthetic", "made.csv")
        assert message in found
