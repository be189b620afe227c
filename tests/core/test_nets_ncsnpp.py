"""NCSN++: its resampling against scipy, its published sizes, and what a U-net of any size must do."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import upfirdn
from torch import Tensor, nn

from degauss.core.errors import InputError
from degauss.core.nets.ncsnpp import (
    SMALL,
    STORM,
    TINY,
    Attention,
    LevelEmbedding,
    NCSNpp,
    NCSNppConfig,
    downsample,
    upsample,
)

Net = TypeVar("Net", bound=nn.Module)
NET = NCSNppConfig(channels=8, multipliers=(1, 2, 2))


def field(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def stirred(network: Net, seed: int = 0) -> Net:
    """The network with weights as if trained: what begins at zero does not stay there."""
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        with torch.no_grad():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return network.double()


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


# --- resampling ---


def by_scipy(x: np.ndarray, up: int, down: int, crop: tuple[int, int]) -> np.ndarray:
    """[1, 3, 3, 1] of gain ``up`` along both of the last axes, without the ends that scipy adds."""
    filter_ = np.array([1.0, 3.0, 3.0, 1.0]) / 8 * up
    for axis in (-2, -1):
        whole = np.apply_along_axis(lambda line: upfirdn(filter_, line, up, 1), axis, x)
        start, end = crop
        size = x.shape[axis] * up
        whole = np.take(whole, range(start, start + size + end), axis=axis)
        x = np.take(whole, range(0, size, down), axis=axis)
    return x


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (1, 1, 2, 2), (1, 5, 16, 4)])
def test_resampling_is_upfirdn(shape: tuple[int, ...]) -> None:
    x = field(*shape)
    # Zeros on both sides: the published padding is (1, 1) going down and (2, 1) going up.
    np.testing.assert_allclose(downsample(x).numpy(), by_scipy(x.numpy(), 1, 2, (2, 0)), atol=1e-13)
    np.testing.assert_allclose(upsample(x).numpy(), by_scipy(x.numpy(), 2, 1, (1, 0)), atol=1e-13)


def test_going_up_is_four_times_the_adjoint_of_going_down() -> None:
    x, y = field(1, 2, 8, 8), field(1, 2, 4, 4, seed=1)
    left = float((downsample(x) * y).sum())
    assert left == pytest.approx(float((x * upsample(y)).sum()) / 4, rel=1e-12)


def test_a_constant_stays_and_the_finest_ripple_goes() -> None:
    inside = (..., slice(1, -1), slice(1, -1))
    flat = torch.full((1, 1, 12, 12), 3.0)
    torch.testing.assert_close(downsample(flat)[inside], flat[:, :, :4, :4])
    torch.testing.assert_close(upsample(flat)[..., 1:-1, 1:-1], torch.full((1, 1, 22, 22), 3.0))
    ripple = flat * (1 - 2.0 * (torch.arange(12) % 2))
    assert float(downsample(ripple)[inside].abs().max()) < 1e-6


# --- sizes ---


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (STORM, 27.76),
        (replace(STORM, channels=96, multipliers=(1, 2, 2, 1)), 11.68),
        (replace(STORM, channels=96, multipliers=(1, 1, 1, 1)), 5.22),
    ],
)
def test_it_has_as_many_weights_as_the_published_one(config: NCSNppConfig, millions: float) -> None:
    """StoRM's repository: of networks that are shown the state and one spectrum."""
    assert count(NCSNpp(config, 4)) / 1e6 == pytest.approx(millions, abs=0.005)


def test_presets_are_small() -> None:
    assert 0.2e6 < count(NCSNpp(TINY, 6)) < 0.5e6
    assert count(NCSNpp(SMALL, 6)) * 4 < 5e6


def test_a_network_without_noise_has_no_embedding() -> None:
    names = [name for name, _ in NCSNpp(NET, 2, noisy=False).named_parameters()]
    assert not [name for name in names if "embed" in name or "told" in name]


# --- what it computes ---


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 21), st.integers(1, 21), st.integers(1, 3))
def test_any_size_goes_in_and_comes_out(rows: int, columns: int, patch: int) -> None:
    network = stirred(NCSNpp(replace(NET, patch=patch), 4))
    out = network(field(2, 4, rows, columns), torch.tensor([0.1, 0.9]).double())
    assert out.shape == (2, 2, rows, columns)
    assert bool(torch.isfinite(out).all())


def test_patches_are_places_with_more_channels() -> None:
    """The same weights, and the places of a patch as channels."""
    patched, plain = NCSNpp(replace(NET, patch=2), 1, 3), NCSNpp(NET, 4, 12)
    stirred(patched)
    plain.double().load_state_dict(patched.state_dict())
    x, level = field(2, 1, 16, 24), torch.tensor([0.1, 0.9]).double()
    # A patch as its four places one by one.
    places = torch.stack([x[:, 0, row::2, column::2] for row in (0, 1) for column in (0, 1)], dim=1)
    want = torch.empty(2, 3, 16, 24, dtype=torch.float64)
    answers = plain(places, level).unflatten(1, (3, 4))
    for number in range(4):
        want[:, :, number // 2 :: 2, number % 2 :: 2] = answers[:, :, number]
    torch.testing.assert_close(patched(x, level), want)


def test_it_says_nothing_before_training() -> None:
    assert not bool(NCSNpp(NET, 4)(torch.randn(1, 4, 8, 8), torch.tensor(0.3)).any())


def test_an_example_does_not_depend_on_its_batch() -> None:
    network, x, level = stirred(NCSNpp(NET, 4)), field(3, 4, 8, 12), torch.tensor([0.1, 0.5, 0.9]).double()
    whole = network(x, level)
    torch.testing.assert_close(network(x[[2, 0]], level[[2, 0]]), whole[[2, 0]], rtol=1e-10, atol=1e-10)
    # One level for all is a level each.
    torch.testing.assert_close(network(x, level[1]), network(x, level[1].expand(3)), rtol=1e-10, atol=1e-10)


def test_every_part_matters() -> None:
    """Each weight has a gradient, and the level is heard."""
    network = stirred(NCSNpp(NET, 4))
    x = field(2, 4, 8, 8)
    out = network(x, torch.tensor([0.1, 0.9]).double())
    (out * field(2, 2, 8, 8, seed=1)).sum().backward()
    dead = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert dead == []
    with torch.no_grad():
        low, high = (network(x, torch.tensor(level).double()) for level in (0.2, 0.7))
    assert float((low - high).abs().max()) > 1e-3


def test_what_it_is_told_is_added_to_the_level() -> None:
    network = stirred(NCSNpp(replace(NET, conditions=3), 1, 1))
    plain = NCSNpp(NET, 1, 1).double()
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if "condition" not in name})
    x, level, told = field(2, 1, 8, 8), torch.tensor([0.1, 0.9]).double(), field(2, 3, seed=1)
    torch.testing.assert_close(network(x, level), plain(x, level))
    assert float((network(x, level, told) - network(x, level)).detach().abs().max()) > 1e-3
    torch.testing.assert_close(network(x[1:], level[1:], told[1:]), network(x, level, told)[1:])
    assert network.embed is not None
    assert network.condition is not None
    # What every block hears: one activation of the sum.
    inner = network.embed.last(torch.nn.functional.silu(network.embed.hidden(_angles(network.embed, level))))
    want = torch.nn.functional.silu(inner + network.condition(told))
    torch.testing.assert_close(network.embed(level, network.condition(told)), want)
    (network(x, level, told)).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.condition.parameters())


def _angles(embed: LevelEmbedding, level: Tensor) -> Tensor:
    angle = 2 * torch.pi * level[:, None] * embed.frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


@pytest.mark.parametrize("told", [torch.zeros(2, 2), torch.zeros(2, 3, 1), torch.zeros(3)])
def test_telling_another_number_of_things_is_refused(told: Tensor) -> None:
    network = NCSNpp(replace(NET, conditions=3), 1)
    with pytest.raises(ValueError, match="has 3 conditions, but is told"):
        network(torch.zeros(2, 1, 8, 8), torch.tensor(0.1), told)
    with pytest.raises(ValueError, match="has 0 conditions"):
        NCSNpp(NET, 1)(torch.zeros(2, 1, 8, 8), torch.tensor(0.1), told)


def test_conditions_need_a_level_to_be_added_to() -> None:
    with pytest.raises(ValueError, match="added to a noise level"):
        NCSNpp(replace(NET, conditions=3), 1, noisy=False)


def test_the_input_reaches_every_level_by_itself() -> None:
    """With all blocks silent the input's pyramid is still heard below the first level."""
    network = stirred(NCSNpp(NET, 2, noisy=False))
    with torch.no_grad():
        network.first.weight.zero_()
        x = field(1, 2, 8, 8)
        assert float((network(x) - network(torch.zeros_like(x))).abs().max()) > 1e-3


def test_attention_is_softmax_over_all_places() -> None:
    layer = stirred(Attention(8))
    x = field(2, 8, 3, 4)
    places = layer.norm(x).flatten(2).transpose(1, 2)
    query, key, value = layer.project(places).split(8, dim=-1)
    weights = torch.softmax(query @ key.transpose(1, 2) / 8**0.5, dim=-1)
    want = (x + layer.leave(weights @ value).transpose(1, 2).reshape(x.shape)) / 2**0.5
    torch.testing.assert_close(layer(x), want)


def test_the_memory_layout_changes_nothing() -> None:
    network, x = stirred(NCSNpp(NET, 4)), field(2, 4, 8, 12)
    before = network(x, torch.tensor(0.3).double())
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(network(x, torch.tensor(0.3).double()), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channels": 6}, "multiple of 4"),
        ({"channels": 0}, "channels must be at least 4"),
        ({"multipliers": ()}, "multipliers must be"),
        ({"multipliers": (1, 0)}, "multipliers must be"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"fourier_scale": 0.0}, "fourier_scale must be above 0"),
        ({"conditions": -1}, "conditions must be at least 0"),
        ({"patch": 0}, "patch must be at least 1"),
    ],
)
def test_a_size_that_cannot_be_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(NET, **wrong)
