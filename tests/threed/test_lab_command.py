"""`lab`: methods side by side, at equal evaluations."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from degauss.core.noise import Noise
from degauss.core.oracle import GaussianOracle
from degauss.core.schedule import Cosine
from degauss.threed import laboratory
from degauss.threed.cameras import Cameras
from degauss.threed.distillation.annealing import Times
from degauss.threed.distillation.residual import Asked
from degauss.threed.distillation.vsd import Variational
from degauss.threed.embedded_prior import EmbeddedConfig, EmbeddedPrior
from degauss.threed.laboratory import TIMES, gradient_noise, noise_error, prior_error, seen_around, surface_distance
from degauss.threed.mesh_files import write_mesh
from degauss.threed.methods import MethodConfig
from degauss.threed.oracle_views import OracleViews
from degauss.threed.prior_sources import Source
from degauss.threed.quality import gradient_variance
from degauss.threed.run import Run
from degauss.threed.scenes import SceneConfig, start

from ._little import box, little, oracle, oracle_orbits

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
    names = {"config.toml", "sheet.png", "curve.csv", "curve.png", "methods.csv", "noise.csv", "noise.png"}
    assert {file.name for file in (here / "lab").iterdir()} == names
    rows = list(csv.DictReader((here / "lab/curve.csv").read_text().splitlines()))
    noise = list(csv.DictReader((here / "lab/noise.csv").read_text().splitlines()))
    assert [(row["method"], row["evaluations"]) for row in rows] == [
        ("sds", "12"), ("sds", "24"), ("asd", "12"), ("asd", "24"),
    ]  # fmt: skip
    assert [row["of"] for row in noise] == ["sds", "asd", "start", "truth"]


def test_stable_dreamer_spends_its_budget_on_both_stages(lab: list[str], invoke: Invoke, here: Path) -> None:
    status, out, error = invoke([*lab, "--methods", "sds", "stable-dreamer"])
    assert status == 0, error
    assert [line.split(", PSNR")[0] for line in out.splitlines()[:2]] == [
        "sds: 12 steps, 24 evaluations", "stable-dreamer: 12 steps, 24 evaluations",
    ]  # fmt: skip
    rows = list(csv.DictReader((here / "lab/curve.csv").read_text().splitlines()))
    assert [(row["method"], row["step"]) for row in rows] == [
        ("sds", "6"), ("sds", "12"), ("stable-dreamer", "6"), ("stable-dreamer", "12"),
    ]  # fmt: skip
    assert rows[1]["loss"] != rows[3]["loss"]
    assert [row["of"] for row in csv.DictReader((here / "lab/noise.csv").read_text().splitlines())] == [
        "sds", "stable-dreamer", "start", "truth",
    ]  # fmt: skip


def test_the_noise_of_a_gradient_is_that_of_its_stage() -> None:
    """One sharp image is wanted, and the weight is alpha sigma times a distance: only the stage's times vary."""
    cameras = Cameras.orbit(torch.zeros(1), 15.0, size=16)
    certain = OracleViews.of(Cosine(), {"box": box()}, cameras, 6)
    config = replace(little(steps=10, shape=0.5), method=MethodConfig("sds", weighting="variance"))
    images, _ = seen_around(certain, Run(config, certain).scene, "cpu")
    error, noise = images - certain.objects["box"].images, Noise(config.seed, range(len(images)))

    def draw(i: int, within: int = 0) -> torch.Tensor:
        """The second stage's first step, half way through the run, asks between 0.02 and 0.5."""
        alpha, sigma = Cosine()(Times.of(0.02, 0.5).draw(noise.fork(i), within))
        return (alpha * sigma)[:, None, None, None] * error

    assert gradient_noise(config, certain, "cpu", 6) == pytest.approx(gradient_variance(draw, 6), rel=1e-4)
    whole = replace(config, shape=None)
    assert gradient_noise(whole, certain, "cpu", 6) != pytest.approx(gradient_variance(draw, 6), rel=0.1)


def test_the_error_of_the_noise_tells_the_truth_from_a_ball() -> None:
    source = oracle()
    ball = start(SceneConfig("volume"), 0)
    truth, other = (
        prior_error(source.prior, "box", *seen_around(source.prior, scene, "cpu")) for scene in (box(), ball)
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
        (["--methods", "sds", "stable-dreamer", "--annealing", "none"], "stable-dreamer has times of its own"),
        (["--methods", "stable-dreamer", "--evaluations", "2"], "both stages need a step"),
        (["--evaluations", "0"], "evaluations must be at least 1"),
        (["--runs", "0"], "runs must be at least 1"),
    ],
)
def test_what_cannot_be_compared(words: list[str], says: str, lab: list[str], refused: Refused) -> None:
    assert says in refused([*lab, *words])


def test_several_runs_say_how_much_their_ends_differ(lab: list[str], invoke: Invoke, here: Path) -> None:
    status, out, error = invoke([*lab, "--methods", "sds", "ism", "--runs", "2"])
    assert status == 0, error
    assert [line.split(":")[0] for line in out.splitlines()[:4]] == [
        "sds, seed 0", "sds, seed 1", "ism, seed 0", "ism, seed 1",
    ]  # fmt: skip
    rows = list(csv.DictReader((here / "lab/methods.csv").read_text().splitlines()))
    assert [(row["method"], row["runs"]) for row in rows] == [("sds", "2"), ("ism", "2")]
    for row in rows:
        assert float(row["diversity"]) > 0
        assert 0 < float(row["chamfer"]) < 0.3
        assert float(row["gradient_noise"]) > 0
    seeds = [row["seed"] for row in csv.DictReader((here / "lab/curve.csv").read_text().splitlines())]
    assert sorted(set(seeds)) == ["0", "1"]


def test_noise_errors_have_their_closed_form() -> None:
    """Data N(0, s^2): the error of the noise is alpha^2 s^2 / (alpha^2 s^2 + sigma^2)."""
    std, images = 0.5, 0.5 * torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = noise_error(GaussianOracle(Cosine(), 0.0, std), Cosine(), images, (0.2, 0.5, 0.8))
    for value, time in zip(found, (0.2, 0.5, 0.8), strict=True):
        alpha, sigma = (float(scale) for scale in Cosine()(torch.tensor(time, dtype=torch.float64)))
        assert value == pytest.approx(alpha**2 * std**2 / (alpha**2 * std**2 + sigma**2), rel=0.05)
    assert list(found) == sorted(found, reverse=True)


def test_how_much_a_gradient_varies_is_of_times_and_noise() -> None:
    """One sharp image is wanted whatever the noise, and with the weight of images whatever the time."""
    cameras = Cameras.orbit(torch.zeros(1), 15.0, size=16)
    certain = OracleViews.of(Cosine(), {"box": box()}, cameras, 6)
    assert gradient_noise(little(steps=10), certain, "cpu", 4) == pytest.approx(0, abs=1e-9)
    weighted = replace(little(steps=10), method=MethodConfig("sds", weighting="variance"))
    assert gradient_noise(weighted, certain, "cpu", 4) > 1e-3
    assert gradient_noise(little(steps=10), oracle().prior, "cpu", 4) > 1e-3


def test_the_surface_of_a_ball_is_near_a_box_and_an_empty_scene_has_none() -> None:
    ball = Run(little(), oracle().prior).scene
    assert 0 < surface_distance(ball, box()) < 0.2
    with torch.no_grad():
        for name, value in ball.named_parameters():
            value.fill_(-50.0 if name == "raw" else 0.0)
    assert surface_distance(ball, box()) != surface_distance(ball, box())  # NaN


def learned() -> Source:
    """A prior with a network, which has learned nothing."""
    prior = EmbeddedPrior.new(EmbeddedConfig(("box",), size=16))
    prior.network.requires_grad_(False)
    return Source(prior, "folder", "0" * 64, "ours", oracle_orbits(), True)


def test_looking_does_not_teach_vsd() -> None:
    source = learned()
    run = Run(little(method="vsd"), source.prior)
    run.advance()
    assert isinstance(run.method, Variational)
    before = [weight.clone() for weight in run.method.score.additions.parameters()]
    images, views = seen_around(source.prior, run.scene, "cpu")
    t = torch.full((len(images),), 0.5, dtype=torch.float64)
    asked = Asked(source.prior, "box", views)
    told = run.method.held().residual(asked, images, t, run.noise.fork(1).take([0] * len(images)), 0)
    laboratory._wanted(run)
    after = list(run.method.score.additions.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert torch.isfinite(told.gradient).all()
