"""`train-classifier` and `classify` as a person uses them, and the files they read."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from degauss.core.errors import InputError
from degauss.timeseries.irregular import irregular
from degauss.timeseries.labelled import read_labelled

Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("here")
SMALL = ("--epochs", "12", "--min-epochs", "4", "--hidden", "8", "--layers", "1", "--device", "cpu", "--lr", "0.02")


@pytest.fixture
def run(invoke: Run) -> Run:
    return lambda *words: invoke(words)


def patients(n: int = 40, seed: int = 0) -> pd.DataFrame:
    """A rise or a fall of a pulse, measured at hours of their own, with empty cells."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(n):
        hours = np.concatenate([[0.0], np.sort(rng.uniform(0.5, 23.5, rng.integers(6, 12))), [24.0]])
        pulse = 80 + (1 if k % 2 else -1) * hours + rng.normal(size=len(hours))
        rows.append(
            pd.DataFrame({"unique_id": f"p{k:02d}", "ds": hours, "pulse": pulse, "o2": 97.0, "label": "ab"[k % 2]})
        )
    frame = pd.concat(rows, ignore_index=True)
    frame.loc[rng.random(len(frame)) < 0.2, "o2"] = np.nan
    return frame


def test_a_table_of_patients_from_training_to_predictions(run: Run, here: Path) -> None:
    patients().to_csv("train.csv", index=False)
    status, out, error = run("train-classifier", "train.csv", "--out", "run", *SMALL)
    assert (status, error) == (0, "")
    assert "wrote run/model" in out
    metrics = json.loads((here / "run" / "metrics.json").read_text())
    assert metrics["series"] == 6
    assert metrics["accuracy"] == np.trace(metrics["confusion"]) / 6
    assert metrics["accuracy"] > 0.8
    assert (here / "run" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert tomllib.loads((here / "run" / "train.toml").read_text())["hidden"] == 8

    new = patients(20, seed=1)
    new.sample(frac=1, random_state=0).to_csv("new.csv", index=False)
    status, out, error = run("classify", "new.csv", "--checkpoint", "run/model", "--out", "who.csv")
    assert (status, error) == (0, "")
    table = pd.read_csv("who.csv")
    assert list(table.columns) == ["id", "label", "predicted", "p_a", "p_b"]
    assert set(table["id"]) == set(new["unique_id"])
    np.testing.assert_allclose(table[["p_a", "p_b"]].sum(axis=1), 1)
    assert (table["predicted"] == np.where(table["p_a"] > table["p_b"], "a", "b")).all()
    assert json.loads((here / "who.json").read_text())["accuracy"] == (table["label"] == table["predicted"]).mean()
    assert (here / "who.png").exists()
    assert len(tomllib.loads((here / "who.toml").read_text())["provenance"]["checkpoint_sha256"]) == 64

    # Without labels: the same predictions, and nothing to score. In parquet, as in csv.
    new.drop(columns="label").to_parquet("plain.parquet")
    assert run("classify", "plain.parquet", "--checkpoint", "run/model", "--out", "plain.tsv")[0] == 0
    plain = pd.read_csv("plain.tsv", sep="\t").set_index("id")
    assert list(plain.columns) == ["predicted", "p_a", "p_b"]
    np.testing.assert_allclose(plain["p_a"], table.set_index("id")["p_a"][plain.index], atol=1e-6)
    assert not (here / "plain.json").exists()


def test_training_again_gives_the_same_model_and_config_repeats_it(run: Run, here: Path) -> None:
    patients(24).to_csv("train.csv", index=False)
    small = (*SMALL[:2], "--min-epochs", "0", *SMALL[4:])
    run("train-classifier", "train.csv", "--out", "run", *small)
    weights = (here / "run" / "model" / "model.safetensors").read_bytes()
    run("train-classifier", "train.csv", "--out", "run", *small)
    assert (here / "run" / "model" / "model.safetensors").read_bytes() == weights
    assert run("train-classifier", "--config", "run/train.toml", "train.csv", "--out", "other")[0] == 0
    assert (here / "other" / "model" / "model.safetensors").read_bytes() == weights


def test_help_names_the_models_and_imports_no_torch(run: Run) -> None:
    status, out, _ = run("train-classifier", "--help")
    assert status == 0
    assert "lnsde" in out
    import subprocess
    import sys

    code = (
        "import sys; from degauss.timeseries.cli import PROGRAM\n"
        "try: PROGRAM.main(['classify', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- .ts files ----------------------------------------------------------------------------------------------

TS = """# a comment
@problemName Toy
@timeStamps false
@univariate false
@classLabel true left right
@data
1,2,?:4,5,6:left
1.5,-2e0:NaN,0:right
"""


def test_a_ts_file_is_read_as_it_says(here: Path) -> None:
    (here / "toy.ts").write_text(TS)
    data = read_labelled("toy.ts")
    assert data.labels is not None
    assert data.labels.tolist() == ["left", "right"]
    np.testing.assert_array_equal(data.series[0], [[1, 2, np.nan], [4, 5, 6]])
    np.testing.assert_array_equal(data.series[1], [[1.5, -2], [np.nan, 0]])
    assert data.times == "stretched"


def test_a_ts_file_with_times_is_read_with_them(here: Path) -> None:
    text = TS.replace("false\n@uni", "true\n@uni").split("@data")[0]
    (here / "toy.ts").write_text(text + "@data\n(0,1),(0.5,2),(7,?):(0,4),(0.5,5),(7,6):left\n")
    data = read_labelled("toy.ts")
    series = irregular(data.series, data.times)
    assert series.times.tolist() == [[0, 0.5, 7]]
    np.testing.assert_array_equal(series.values[0], [[1, 4], [2, 5], [np.nan, 6]])


@pytest.mark.parametrize("name", ["BasicMotions", "JapaneseVowels", "ItalyPowerDemand"])
def test_the_archives_own_files_are_read_as_aeon_reads_them(name: str) -> None:
    datasets = pytest.importorskip("aeon.datasets")
    path = Path(datasets.__file__).parent / "data" / name / f"{name}_TRAIN.ts"
    x, y = datasets.load_classification(name, split="train", load_equal_length=False)
    data = read_labelled(path)
    assert data.labels is not None
    assert [label.lower() for label in data.labels] == y.tolist()  # aeon makes them small
    assert len(data.series) == len(x)
    for ours, theirs in zip(data.series, x, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("@data\n", "", "line 6: expected an @ line before @data, found '1,2"),
        ("1,2,?:4,5,6:left\n1.5,-2e0:NaN,0:right\n", "", "has no series after @data"),
        (":left", ":up", "line 7: ends in 'up'; expected a label"),
        ("1,2,?", "1,2", "line 7: has channels of different lengths"),
        ("1,2,?", "1,x,3", "line 7: expected numbers"),
        ("NaN,0:", "", "line 8: has 1 channels; expected 2"),
        ("timeStamps false", "timeStamps true", r"line 7: expected \(time,value\)"),
        ("@classLabel true left right", "@targetLabel true", "holds targets of a regression"),
    ],
)
def test_a_bad_ts_file_is_refused_with_its_line(here: Path, old: str, new: str, complaint: str) -> None:
    (here / "toy.ts").write_text(TS.replace(old, new))
    with pytest.raises(InputError, match=complaint):
        read_labelled("toy.ts")


# --- tables -------------------------------------------------------------------------------------------------


def test_dates_are_times_in_seconds(here: Path) -> None:
    stamps = pd.date_range("2024-03-31 00:00", periods=3, freq="90min", tz="UTC").astype(str)
    pd.DataFrame({"unique_id": 5, "ds": stamps, "a": [1, None, 3], "label": "x"}).to_csv("t.csv", index=False)
    data = read_labelled("t.csv")
    times = irregular(data.series, data.times).times[0]
    assert (times - times[0]).tolist() == [0, 5400, 10800]
    assert data.names == ("5",)
    assert data.channels == ("a",)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda f: f.drop(columns="ds"), "has no time column 'ds'"),
        (lambda f: f.rename(columns={"unique_id": "unique_ids"}), "did you mean 'unique_ids'"),
        (lambda f: f[["unique_id", "ds", "label"]], "has no column of values"),
        (lambda f: f.assign(pulse="high"), "column 'pulse', row 1 holds 'high'; expected a number or an empty cell"),
        (lambda f: f.assign(ds="noon"), "time column 'ds', row 1 holds 'noon'"),
        (lambda f: f.assign(ds=1), "series 'p00' has one time twice in column 'ds'"),
        (lambda f: f.assign(label=np.arange(len(f)).astype(str)), "series 'p00' has labels"),
        (lambda f: f.iloc[:0], "has no rows"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(run: Run, here: Path, change: Callable, complaint: str) -> None:
    import re

    change(patients(4)).to_csv("bad.csv", index=False)
    status, out, error = run("train-classifier", "bad.csv", "--out", "run", *SMALL)
    assert (status, out) == (2, "")
    assert error.startswith("degauss-timeseries: error: bad.csv")
    assert error.count("\n") == 1
    assert re.search(complaint, error)
    assert not (here / "run").exists()


def test_what_cannot_be_done_is_said_in_one_line(run: Run, here: Path) -> None:
    patients(24).to_csv("train.csv", index=False)
    patients(24).drop(columns="label").to_csv("plain.csv", index=False)
    run("train-classifier", "train.csv", "--out", "run", "--epochs", "1", *SMALL[4:])
    strange = patients(4).assign(label="c")
    strange.to_csv("strange.csv", index=False)
    longer = patients(4)
    longer["ds"] *= 3
    longer.to_csv("longer.csv", index=False)
    patients(4).drop(columns="o2").to_csv("narrow.csv", index=False)
    (here / "file").write_text("")
    model = ("--checkpoint", "run/model")
    for words, complaint in (
        (("train-classifier", "plain.csv"), "plain.csv: has no labels"),
        (("train-classifier", "none.csv"), "none.csv: no such file"),
        (("train-classifier", "train.xlsx"), "expected a file that ends in .ts, .csv, .tsv, .parquet"),
        (("train-classifier", "train.csv", "--out", "file"), "file: is a file; expected a directory"),
        (("train-classifier", "train.csv", "--test", "1"), "test must be between 0 and 0.9, but is 1"),
        (("train-classifier", "train.csv", "--epochs", "0"), "epochs must be at least 1"),
        (("classify", "strange.csv", *model), "strange.csv: has series of class 'c'; run/model knows 'a', 'b'"),
        (("classify", "longer.csv", *model), "times from 0 to 72; this model was trained on 0 to 24"),
        (("classify", "narrow.csv", *model), "1 channels; this model was trained on 2"),
        (("classify", "train.csv", *model, "--out", "train.csv"), "is the file that the series are read from"),
        (("classify", "train.csv", *model, "--samples", "0"), "samples must be at least 1"),
        (("classify", "train.csv", "--checkpoint", "nowhere"), "nowhere is no model"),
    ):
        status, out, error = run(*words)
        assert (status, out) == (2, ""), words
        assert error.count("\n") == 1
        assert complaint in error
    assert not (here / "predictions.csv").exists()
