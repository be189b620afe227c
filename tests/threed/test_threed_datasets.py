"""The public meshes: all are readable, upright, faced to the front, and say on what terms they are there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from degauss.core.errors import InputError
from degauss.threed.cameras import Cameras
from degauss.threed.datasets import ENTRIES, read_known
from degauss.threed.meshes import Mesh
from degauss.threed.rendering import render


def known(name: str) -> Mesh:
    try:
        return read_known(name)
    except InputError as error:
        pytest.skip(str(error))


def test_only_what_its_author_gave_away_may_ship():
    assert {name for name, entry in ENTRIES.items() if entry.may_ship} == {"spot", "blub"}
    assert all(entry.author and entry.licence for entry in ENTRIES.values())


@pytest.mark.parametrize("name", [name for name in ENTRIES if name != "bunny"])
def test_a_mesh_fits_the_cube_and_is_seen(name: str):
    mesh = known(name)
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    torch.testing.assert_close(low, -high, rtol=0, atol=1e-6)
    assert float((high - low).max()) == pytest.approx(1.0, abs=1e-6)
    seen = render(mesh, Cameras.orbit(torch.tensor([0.0, 90.0]), 10.0, size=32))
    assert bool((seen.alpha.mean((1, 2)) > 0.03).all())
    inside = seen.alpha == 1
    assert float(seen.normal[0][inside[0]][:, 2].mean()) > 0.2  # outwards is towards the viewer
    assert (mesh.texture is not None) == (name in ("spot", "duck"))


def test_the_face_of_spot_is_at_the_front_and_its_back_is_not():
    spot = known("spot")
    spot.check_watertight("spot")
    front, back = render(spot, Cameras.orbit(torch.tensor([0.0, 180.0]), 5.0, size=64)).rgb
    eyes = (front[16:40] < 0.2).all(-1).float().sum()
    assert float(eyes) > 10
    muzzle = torch.tensor([0.95, 0.71, 0.55])
    assert float(((front - muzzle).abs().amax(-1) < 0.1).sum()) > 3 * float(
        ((back - muzzle).abs().amax(-1) < 0.1).sum()
    )


def test_the_beak_of_the_duck_is_at_the_front():
    duck = known("duck")
    front, back = render(duck, Cameras.orbit(torch.tensor([0.0, 180.0]), 5.0, size=64)).rgb
    orange = torch.tensor([1.0, 0.5, 0.0])
    assert float(((front - orange).abs().amax(-1) < 0.15).sum()) > 30
    assert float(((back - orange).abs().amax(-1) < 0.15).sum()) == 0


def test_what_is_not_there_is_named(here: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        InputError, match=r"the mesh must be one of 'spot', .* but is 'spott' \(did you mean 'spot'\?\)"
    ):
        read_known("spott")
    monkeypatch.setenv("DEGAUSS_DATA", str(here))
    with pytest.raises(InputError, match=r"spot_triangulated\.obj: does not exist.*set DEGAUSS_DATA"):
        read_known("spot")
