"""`degauss-3d train-prior`: from a folder of meshes to a prior with a card and a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from degauss.threed.embedded_prior import EmbeddedPrior
from degauss.threed.mesh_files import write_mesh
from degauss.threed.shapes import Part, ball, box, surface_of

Answer = tuple[int, str, str]
Command = Callable[[Sequence[str | Path]], Answer]
Refused = Callable[[Sequence[str | Path]], str]

FEW = ("--steps", "2", "--batch", "2", "--pictures", "3", "--size", "8", "--width", "8")


@pytest.fixture
def meshes(here: Path) -> Path:
    folder = here / "meshes"
    folder.mkdir()
    write_mesh(folder / "ball.glb", surface_of((Part(ball((0, 0, 0), 0.3), (1.0, 0.0, 0.0)),), 12))
    write_mesh(folder / "brick.ply", surface_of((Part(box((0, 0, 0), (0.3, 0.2, 0.1)), (0.0, 0.0, 1.0)),), 12))
    return folder


def test_a_folder_of_meshes_becomes_a_prior_and_goes_on(invoke: Command, meshes: Path, here: Path) -> None:
    status, out, error = invoke(["train-prior", meshes, "--out", "run", *FEW])
    assert (status, error) == (0, "")
    assert "which knows ball, brick: what it draws has a PSNR of" in out
    prior = EmbeddedPrior.load(here / "run" / "model")
    assert prior.vocabulary == ("ball", "brick")
    assert (prior.size, prior.channels, prior.config.views) == (8, 6, True)
    card = json.loads((here / "run" / "model" / "card.json").read_text())
    assert card["trained_on"] == {"words": ["ball", "brick"]}
    assert len(card["metrics"]["samples"][0]["psnr_by_azimuth"]) == 8
    assert (here / "run" / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert "pictures = 3" in (here / "run" / "train.toml").read_text()
    renders = sorted((here / "run" / "renders").iterdir())
    times = [file.stat().st_mtime_ns for file in renders]

    status, out, _ = invoke(["train-prior", meshes, "--out", "run", *FEW, "--steps", "3"])
    assert status == 0
    assert "after 3 steps" in out
    assert [json.loads(line)["step"] for line in (here / "run" / "metrics.jsonl").read_text().splitlines()][-1] == 3
    assert [file.stat().st_mtime_ns for file in sorted((here / "run" / "renders").iterdir())] == times

    # Another prior does not take over the run.
    status, _, error = invoke(["train-prior", meshes, "--out", "run", *FEW, "--no-views"])
    assert status == 2
    assert "run holds the training of a prior with views = True, but views = False is asked for" in error


def test_the_twin_is_told_no_view_and_sees_no_normals(invoke: Command, meshes: Path, here: Path) -> None:
    status, _, _ = invoke(["train-prior", meshes, "--out", "twin", *FEW, "--no-views", "--no-normals"])
    assert status == 0
    twin = EmbeddedPrior.load(here / "twin" / "model")
    assert (twin.channels, twin.config.views, twin.config.conditions) == (3, False, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere is no directory; expected one of meshes"),
        (("meshes", "--steps", "0"), "steps must be at least 1"),
        (("meshes", "--pictures", "0"), "pictures must be at least 1"),
        (("meshes", "--nameless", "2"), "nameless must be between 0 and 1"),
        (("meshes", "--width", "6"), "channels must be a multiple of 4"),
        (("meshes", "--size", "4"), "size must be at least 8"),
        (("meshes", "--elevation", "60", "-15"), "elevation must be two increasing angles"),
        (("meshes", "--out", "meshes/ball.glb"), "is a file; expected a directory"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(
    refused: Refused, meshes: Path, words: tuple[str, ...], message: str
) -> None:
    del meshes
    assert message in refused(["train-prior", *words])
