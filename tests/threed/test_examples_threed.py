"""The examples do what they say, with priors that know a box exactly or little at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from degauss.core.errors import InputError
from degauss.threed.embedded_prior import EmbeddedPrior
from degauss.threed.mesh_files import read_mesh, read_provenance, write_mesh
from degauss.threed.plots import read_picture

from ._little import box


@pytest.fixture
def oracle(here: Path) -> str:
    write_mesh(here / "box.glb", box())
    return "oracle:box.glb"


@pytest.mark.slow  # renders an oracle, a mesh and a film
def test_an_object_from_a_word(started: Callable[..., str], oracle: str, here: Path) -> None:
    said = started("spot_from_a_word", "box", "--prior", oracle, "--steps", 30, "--voxels", 16, "--out", "a")
    first, last = said.splitlines()
    assert first.startswith("wrote a.glb and a.mp4: ")
    assert first.endswith("120 evaluations")
    assert float(last.removeprefix("PSNR ").split()[0]) > 8
    mesh = read_mesh(here / "a.glb")
    assert mesh.texture is not None
    assert read_provenance(here / "a.glb")["prompt"] == "box"
    assert (here / "a.mp4").stat().st_size > 1000
    with pytest.raises(InputError, match="'cat'"):
        started("spot_from_a_word", "cat", "--prior", oracle)


@pytest.mark.slow  # trains
def test_a_prior_of_meshes_of_ones_own(started: Callable[..., str], here: Path) -> None:
    said = started("own_mesh_class", "--steps", 60, "--pictures", 60)
    first, last = said.splitlines()[-2:]
    assert first.startswith("the prior knows mushroom, rocket; what it draws is 0.")
    assert last.startswith("wrote own/mushroom.glb: PSNR ")
    assert EmbeddedPrior.load(here / "own/model").vocabulary == ("mushroom", "rocket")
    assert sorted(path.name for path in (here / "own/meshes").iterdir()) == ["mushroom.glb", "rocket.glb"]
    assert (here / "own/samples.png").stat().st_size > 10_000
    with pytest.raises(InputError, match="no 'cat': its words are mushroom, rocket"):
        started("own_mesh_class", "own/meshes", "--word", "cat")


def test_meshes_that_are_made_up_have_a_front(example: Callable[[str], ModuleType], here: Path) -> None:
    script = example("own_mesh_class")
    for file in sorted(script.made_up(here / "meshes").iterdir()):
        mesh = read_mesh(file)
        assert mesh.colours is not None
        ahead, behind = mesh.vertices[:, 2] > 0.05, mesh.vertices[:, 2] < -0.05
        assert float((mesh.colours[ahead].mean(0) - mesh.colours[behind].mean(0)).abs().max()) > 0.01


def test_methods_at_equal_cost(started: Callable[..., str], oracle: str, here: Path) -> None:
    words = ["--methods", "sds", "asd", "--evaluations", 64, "--out", "b"]
    lines = started("compare_methods", "box", "--prior", oracle, *words).splitlines()
    assert [line.split()[0] for line in lines] == ["sds", "asd", "wrote"]
    assert all(line.split("  ")[-1].startswith("64: ") for line in lines[:2])
    picture = read_picture(here / "b.png")
    assert picture.shape[1] > 4 * picture.shape[0], "two rows of nine pictures"
    with pytest.raises(InputError, match="a method"):
        started("compare_methods", "box", "--prior", oracle, "--methods", "none")
