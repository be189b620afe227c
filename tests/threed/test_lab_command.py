"""`lab`: methods side by side, at equal evaluations."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from degauss.threed.laboratory import TIMES, noise_error, seen_around
from degauss.threed.mesh_files import write_mesh
from degauss.threed.scenes import SceneConfig, start

from ._little import box, oracle

Invoke = Callable[[Sequence[str | Path]], tuple[int, str, str]]
Refused = Callable[[Sequence[str | Path]], str]

SMALL = ["--evaluations", "24", "--looks", "2", "--views", "2", "--size", "16", "--resolution", "12"]


@pytest.fixture
def lab(here: Path) -> list[str]:
    write_mesh(here / "box.glb", box())
    return ["lab", "box", "--prior", "oracle:box.glb", *SMALL]


def test_methods_are_compared_at_equal_evaluations(lab: list[str], invoke: Invoke, here: Path) -> None:
    status, out, error = invoke([*lab, "--methods", "sds", "asd"])
    assert status == 0, error
    assert out.splitlines()[0].startswith("sds: 12 steps, 24 evaluations, PSNR ")
    assert out.splitlines()[1].startswith("asd: 6 steps, 24 evaluations, PSNR ")
    names = {"config.toml", "sheet.png", "curve.csv", "curve.png", "noise.csv", "noise.png"}
    assert {file.name for file in (here / "lab").iterdir()} == names
    rows = list(csv.DictReader((here / "lab/curve.csv").read_text().splitlines()))
    noise = list(csv.DictReader((here / "lab/noise.csv").read_text().splitlines()))
    assert [(row["method"], row["evaluations"]) for row in rows] == [
        ("sds", "12"), ("sds", "24"), ("asd", "12"), ("asd", "24"),
    ]  # fmt: skip
    assert [row["of"] for row in noise] == ["sds", "asd", "start", "truth"]


def test_the_error_of_the_noise_tells_the_truth_from_a_ball() -> None:
    source = oracle()
    ball = start(SceneConfig("volume"), 0)
    truth, other = (
        noise_error(source.prior, "box", *seen_around(source.prior, scene, "cpu")) for scene in (box(), ball)
    )
    assert all(good < bad for good, bad in zip(truth[:7], other[:7], strict=True))
    # Near t = 1 the state is the noise: there is nothing to get wrong.
    assert other[-1] < 0.1 * other[TIMES.index(0.3)]
    assert all(torch.tensor(value).isfinite() for value in (*truth, *other))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--methods", "sds", "sds"], "all different"),
        (["--methods", "isx"], "did you mean 'ism'"),
        (["--methods", "sds", "vsd"], "has none"),
        (["--evaluations", "0"], "evaluations must be at least 1"),
    ],
)
def test_what_cannot_be_compared(words: list[str], says: str, lab: list[str], refused: Refused) -> None:
    assert says in refused([*lab, *words])
