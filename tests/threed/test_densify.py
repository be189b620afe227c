"""Clone, split, prune and reset, with the optimiser's moments."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.threed.cameras import Cameras
from degauss.threed.densify import Change, Densifier, DensifyConfig
from degauss.threed.gaussians import Gaussians, draw
from degauss.threed.projection import Cloud

WHITE = torch.ones(3)
VIEWS = Cameras.orbit(torch.tensor([0.0, 90.0]), 10.0, 2.2, 40.0, 24)
CONFIG = DensifyConfig(start=0, every=1, reset_every=100, grow_gradient=1.0, small=0.05, largest=0.3)


def three() -> tuple[Gaussians, torch.optim.Adam]:
    """A small one, a large one and a transparent one, after one step of Adam, in two groups."""
    gaussians = Gaussians.from_points(0.1 * torch.eye(3), torch.full((3, 3), 0.3), opacity=0.5, scale=0.02)
    with torch.no_grad():
        gaussians.cloud().log_scales[1] = math.log(0.2)
        gaussians.cloud().opacity_logits[2] = -6.0
    means = gaussians.get_parameter("means")
    others = [value for value in gaussians.parameters() if value is not means]
    optimiser = torch.optim.Adam([{"params": [means], "lr": 1e-4}, {"params": others, "lr": 1e-3}])
    draw(gaussians.cloud(), VIEWS, WHITE)[0].rgb.sum().backward()
    optimiser.step()
    optimiser.zero_grad()
    return gaussians, optimiser


def pulled(densifier: Densifier, *pulls: float) -> None:
    views = torch.ones(len(pulls))
    densifier.load_state_dict({"pull": torch.tensor(pulls), "views": views})


def moments(optimiser: torch.optim.Adam, gaussians: Gaussians, name: str) -> Tensor:
    return optimiser.state[gaussians.get_parameter(name)]["exp_avg"]


def test_small_ones_are_cloned_and_large_ones_split() -> None:
    gaussians, optimiser = three()
    old = Cloud(*(part.detach().clone() for part in gaussians.cloud()))
    old_moments = {name: moments(optimiser, gaussians, name).clone() for name in Cloud._fields}
    densifier = Densifier(gaussians, optimiser, Noise(0, [0]), CONFIG)
    pulled(densifier, 2.0, 2.0, 2.0)
    assert densifier.step(0) == Change(cloned=1, split=1, pruned=1)
    new = gaussians.cloud()
    # The small one and its copy, then the halves of the large one; the transparent one is gone.
    assert len(gaussians) == 4
    for before, after in zip(old, new, strict=True):
        torch.testing.assert_close(after[0], before[0])
        torch.testing.assert_close(after[1], before[0])
    torch.testing.assert_close(new.log_scales[2:].exp(), old.log_scales[[1, 1]].exp() / 1.6)
    torch.testing.assert_close(new.sh[2:], old.sh[[1, 1]])
    assert float((new.means[2] - new.means[3]).norm().detach()) > 0
    for name in Cloud._fields:
        there = moments(optimiser, gaussians, name)
        torch.testing.assert_close(there[0], old_moments[name][0])
        assert (there[1:] == 0).all()
        assert optimiser.state[gaussians.get_parameter(name)]["step"] == 1
    assert len(optimiser.state) == 5
    assert [len(group["params"]) for group in optimiser.param_groups] == [1, 4]
    assert optimiser.param_groups[0]["params"][0] is new.means


def test_halves_are_drawn_from_what_is_split() -> None:
    count = 4000
    points, colours = torch.zeros(count, 3), torch.zeros(count, 3)
    gaussians = Gaussians.from_points(points, colours, opacity=0.5, scale=0.2)
    turn = torch.tensor([math.cos(0.4), 0.0, 0.0, math.sin(0.4)])
    with torch.no_grad():
        gaussians.cloud().log_scales[:] = torch.tensor([0.3, 0.1, 0.05]).log()
        gaussians.cloud().quaternions[:] = turn
    expected = gaussians.covariances()[0].detach()
    densifier = Densifier(gaussians, torch.optim.Adam(gaussians.parameters()), Noise(0, [0]), CONFIG)
    pulled(densifier, *[2.0] * count)
    assert densifier.step(0).split == count
    found = gaussians.cloud().means.detach()
    assert float((found.T.cov() - expected).abs().max()) < 0.05 * float(expected.max())


def test_training_goes_on_after_a_change() -> None:
    gaussians, optimiser = three()
    densifier = Densifier(gaussians, optimiser, Noise(0, [0]), CONFIG)
    pulled(densifier, 2.0, 2.0, 0.0)
    densifier.step(0)
    before = gaussians.cloud().means.detach().clone()
    densifier.render(VIEWS, WHITE).rgb.sum().backward()
    optimiser.step()
    assert (gaussians.cloud().means.detach() != before).all()


def test_the_statistics_depend_neither_on_the_batch_nor_on_the_resolution() -> None:
    def pull(azimuths: list[float], size: int) -> Tensor:
        gaussians, optimiser = three()
        densifier = Densifier(gaussians, optimiser, Noise(0, [0]), CONFIG)
        views = Cameras.orbit(torch.tensor(azimuths), 10.0, 2.2, 40.0, size)
        ramp = (torch.arange(size) + 0.5) / size
        (densifier.render(views, WHITE).rgb[..., 0] * ramp).mean().backward()
        state = densifier.state_dict()
        assert (state["views"] == torch.tensor([1.0, 1.0, 0.0]) * len(azimuths)).all()
        return state["pull"]

    both = pull([0.0, 90.0], 24)
    assert float(both[:2].min()) > 1e-4
    torch.testing.assert_close(pull([90.0, 0.0], 24), both)
    torch.testing.assert_close(pull([0.0], 24) + pull([90.0], 24), both)
    # The low-pass filter widens the small one.
    torch.testing.assert_close(pull([0.0, 90.0], 96)[1], both[1], rtol=0.03, atol=0)


def test_growth_is_where_the_picture_lacks_something() -> None:
    """A red and a blue half drawn by grey Gaussians: those at the edge of what is asked for are pulled most."""
    gaussians = Gaussians.from_points(
        torch.tensor([[-0.3, 0.0, 0.0], [0.3, 0.0, 0.0]]), torch.full((2, 3), 0.5), opacity=0.5, scale=0.1
    )
    with torch.no_grad():
        target = draw(gaussians.cloud(), VIEWS[0], WHITE)[0].rgb
        target[:, :, 12:] = target[:, :, 12:].roll(1, 2)
    densifier = Densifier(gaussians, torch.optim.Adam(gaussians.parameters()), Noise(0, [0]), CONFIG)
    (densifier.render(VIEWS[0], WHITE).rgb - target).square().mean().backward()
    left, right = densifier.state_dict()["pull"].tolist()
    assert right > 100 * left


def test_opacities_are_reset_and_their_moments_with_them() -> None:
    gaussians, optimiser = three()
    kept = moments(optimiser, gaussians, "means").clone()
    config = DensifyConfig(start=0, every=50, reset_every=10, reset_opacity=0.01)
    densifier = Densifier(gaussians, optimiser, Noise(0, [0]), config)
    assert densifier.step(8) == Change()
    assert densifier.step(9) == Change(reset=True)
    opacities = torch.sigmoid(gaussians.cloud().opacity_logits)
    torch.testing.assert_close(opacities[:2], torch.full((2,), 0.01))
    assert float(opacities[2].detach()) < 0.005
    assert (moments(optimiser, gaussians, "opacity_logits") == 0).all()
    assert torch.equal(moments(optimiser, gaussians, "means"), kept)


def test_what_is_too_large_goes_after_the_first_reset() -> None:
    for done, pruned in ((5, 1), (15, 2)):
        gaussians, optimiser = three()
        config = DensifyConfig(start=0, every=5, reset_every=10, largest=0.15)
        assert Densifier(gaussians, optimiser, Noise(0, [0]), config).step(done - 1).pruned == pruned


def test_there_is_a_most_and_the_strongest_come_first() -> None:
    gaussians, optimiser = three()
    densifier = Densifier(
        gaussians, optimiser, Noise(0, [0]), DensifyConfig(start=0, every=1, grow_gradient=1.0, most=4)
    )
    pulled(densifier, 2.0, 3.0, 0.0)
    assert densifier.step(0) == Change(cloned=0, split=1, pruned=1)


def test_the_state_resumes() -> None:
    gaussians, optimiser = three()
    densifier = Densifier(gaussians, optimiser, Noise(0, [0]), CONFIG)
    densifier.render(VIEWS, WHITE).rgb.sum().backward()
    other = Densifier(gaussians, optimiser, Noise(0, [0]), CONFIG)
    other.load_state_dict(densifier.state_dict())
    assert torch.equal(other.state_dict()["pull"], densifier.state_dict()["pull"])


def test_before_and_after_nothing_changes() -> None:
    gaussians, optimiser = three()
    densifier = Densifier(gaussians, optimiser, Noise(0, [0]), DensifyConfig(start=10, stop=20, every=1))
    assert densifier.step(8) == densifier.step(20) == Change()
    assert densifier.step(9).pruned == 1


def test_what_cannot_go_on() -> None:
    gaussians, optimiser = three()
    densifier = Densifier(gaussians, optimiser, Noise(0, [0]), CONFIG)
    with torch.no_grad():
        gaussians.cloud().means[0] = math.nan
    with pytest.raises(InputError, match="after step 1 a Gaussian or its gradient is not finite"):
        densifier.step(0)
    gaussians, optimiser = three()
    with torch.no_grad():
        gaussians.cloud().opacity_logits[:] = -9.0
    with pytest.raises(InputError, match="all Gaussians are transparent"):
        Densifier(gaussians, optimiser, Noise(0, [0]), CONFIG).step(0)
    with pytest.raises(ValueError, match="does not hold means"):
        Densifier(gaussians, torch.optim.Adam([torch.zeros(1, requires_grad=True)]), Noise(0, [0]))
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        DensifyConfig(start=5, stop=4)
    with pytest.raises(ValueError, match="a reset must leave more"):
        DensifyConfig(reset_opacity=0.001)
