"""Objects of our own: closed, whole, and with a front that is not their back."""

from __future__ import annotations

import pytest
import torch

from degauss.core.errors import InputError
from degauss.threed.cameras import Cameras
from degauss.threed.rendering import render
from degauss.threed.shapes import SHAPES, SHIPPED, Part, ball, box, carrot, cylinder, ring, shipped_mesh, surface_of

RED = (1.0, 0.0, 0.0)


def test_a_ball_has_the_area_volume_and_colour_of_a_ball() -> None:
    mesh = surface_of((Part(ball((0.1, 0, 0), 0.25), RED),))
    assert mesh.volume.item() == pytest.approx(torch.pi / 6, rel=0.01)  # fitted: its diameter is 1
    assert mesh.area.item() == pytest.approx(torch.pi, rel=0.01)
    assert mesh.colours is not None
    assert bool((mesh.colours == torch.tensor(RED)).all())


@pytest.mark.parametrize(
    ("distance", "places", "expected"),
    [
        (box((0, 0, 0), (0.2, 0.1, 0.3)), [(0.5, 0, 0), (0.5, 0.5, 0), (0.15, 0, 0)], [0.3, 0.5, -0.05]),
        (cylinder((0, 0, 0), 1, 0.2, 0.1), [(0.3, 0, 0.4), (0, 0.4, 0), (0.5, 0.5, 0)], [0.3, 0.3, 0.5]),
        (ring((0, 0, 0), 2, 0.3, 0.05), [(0.3, 0, 0), (0, 0, 0), (0, 0.3, 0.4)], [-0.05, 0.25, 0.35]),
        (carrot((0, 0, 0), (0, 0, 1), 0.2, 0.2), [(0.5, 0, 0.5), (0, 0, 2)], [0.3, 0.8]),
    ],
)
def test_distances_are_those_of_geometry(distance, places, expected) -> None:
    torch.testing.assert_close(distance(torch.tensor(places)), torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_an_object_is_one_closed_surface_whose_front_is_not_its_back(name: str) -> None:
    mesh = shipped_mesh(name)
    mesh.check(name)
    mesh.check_watertight(name)
    assert mesh.volume > 0.01
    cameras = Cameras.orbit(torch.tensor([0.0, 180.0]), 15.0, size=32)
    front, back = render(mesh, cameras).rgb
    assert (front - back).square().mean().sqrt() > 0.04
    # A mirror image of the back would pass for the front of a symmetric object.
    assert (front - back.flip(1)).square().mean().sqrt() > 0.04


def test_parts_have_a_place_in_the_world() -> None:
    mug, car = shipped_mesh("mug"), shipped_mesh("car")
    # The handle is at +x, beyond the body, which is centred where the label is.
    assert mug.colours is not None
    assert car.colours is not None
    yellow = (mug.colours[:, 0] > 0.9) & (mug.colours[:, 1] > 0.7)
    assert mug.vertices[yellow][:, 2].mean() > 0.2
    assert mug.vertices[yellow][:, 0].mean() < -0.02
    lights = (car.colours[:, 0] > 0.9) & (car.colours[:, 1] > 0.8)
    assert car.vertices[lights][:, 2].min() > 0.3


def test_the_shipped_words_have_their_meshes(or_skip) -> None:
    for name in SHIPPED:
        mesh = or_skip(lambda name=name: shipped_mesh(name))
        extent = mesh.vertices.amax(0) - mesh.vertices.amin(0)
        assert extent.max().item() == pytest.approx(1.0, abs=1e-5)


def test_an_unknown_object_is_refused() -> None:
    with pytest.raises(InputError, match="'snowman', 'chair', 'mug', 'car', but is 'cow'"):
        shipped_mesh("cow")
