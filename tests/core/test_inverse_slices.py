"""A denoiser of slices on volumes: the same numbers as one slice at a time, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from degauss.core import LinearVP, Noise, Point, sample
from degauss.core.errors import InputError
from degauss.core.gaussian import ddim
from degauss.core.inverse import DPS, ConjugateGradient, Identity, Mask, Measurement, PiGDM, SliceWise
from degauss.core.oracle import GaussianOracle

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Noise(seed, range(shape[0])).normal(torch.empty(*shape, dtype=DOUBLE))


@dataclass
class Watched:
    """A small network that mixes the pixels of a slice, and the sizes of the calls that it got."""

    channels: int = 1
    sizes: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Conv2d(self.channels, self.channels, 3, padding=1).double()

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        assert x.ndim == 4
        assert x.shape[1] == self.channels
        self.sizes.append(len(x))
        shift = cond.get("shift", 0.0)
        scale = t.to(x).reshape(-1, 1, 1, 1) if t.ndim else t.to(x)
        return Point(torch.tanh(self.net(x)) * (1 + scale) + cond.get("offset", 0.0) + shift)


@settings(max_examples=25)
@given(
    batch=st.integers(1, 3),
    slices=st.integers(1, 7),
    chunk=st.integers(1, 25),
    channels=st.sampled_from([None, 2]),
    each=st.booleans(),
    grad=st.booleans(),
)
def test_a_volume_is_its_slices(
    batch: int, slices: int, chunk: int, channels: int | None, each: bool, grad: bool
) -> None:
    shape = (batch, slices, 4, 5) if channels is None else (batch, slices, channels, 4, 5)
    x, net = normal(*shape), Watched(channels or 1)
    t = torch.linspace(0.1, 0.9, batch, dtype=DOUBLE) if each else torch.tensor(0.3, dtype=DOUBLE)
    shift = normal(batch, slices, 1, 1, 1, seed=2)
    with torch.set_grad_enabled(grad):
        got = SliceWise(net, chunk)(x, t, shift=shift, offset=0.25).mean
    assert max(net.sizes) <= chunk
    assert sum(net.sizes) == batch * slices
    for b in range(batch):
        for s in range(slices):
            alone = x[b, s].reshape(1, channels or 1, 4, 5)
            expected = net(alone, t[b] if each else t, shift=shift[b, s], offset=0.25).mean
            torch.testing.assert_close(got[b, s].reshape(expected.shape), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_gradients_pass_and_are_the_whole_networks(chunk: int) -> None:
    net, x, t = Watched(), normal(2, 5, 4, 4), torch.tensor([0.2, 0.6], dtype=DOUBLE)
    weight = normal(2, 5, 4, 4, seed=1)

    def gradients(denoiser: SliceWise) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        value = (denoiser(leaf, t).mean * weight).sum()
        first = torch.autograd.grad(value, [leaf, net.net.weight], create_graph=True)
        (second,) = torch.autograd.grad((first[0] ** 2).sum(), leaf)
        return [*first, second]

    for got, expected in zip(gradients(SliceWise(net, chunk)), gradients(SliceWise(net, 1000)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [2, 100])
def test_a_gradient_keeps_the_activations_of_one_chunk(chunk: int) -> None:
    """What autograd holds from the forward pass: with chunks, inputs only."""
    kept = 0

    def keep(value: Tensor) -> Tensor:
        nonlocal kept
        kept += value.numel()
        return value

    x, net = normal(1, 10, 8, 8), Watched()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        SliceWise(net, chunk)(x.requires_grad_(), torch.tensor(0.5))
    assert (kept > 2 * x.numel()) == (chunk == 100)


def test_guidance_through_it_is_that_of_the_volume() -> None:
    schedule = LinearVP()
    whole = GaussianOracle(schedule, 0.3, 0.7)
    sliced = SliceWise(GaussianOracle(schedule, 0.3, 0.7), 3)
    measurement = Measurement(Mask((normal(1, 4, 5, 5)[0] > 0).double()), normal(2, 4, 5, 5, seed=4), 0.5)
    for guided in (lambda d: DPS(d, schedule, measurement), lambda d: PiGDM(d, schedule, measurement, 0.7)):
        draws = [
            sample(guided(d), schedule, (2, 4, 5, 5), solver=ddim(), steps=6, dtype=DOUBLE) for d in (whole, sliced)
        ]
        torch.testing.assert_close(draws[1], draws[0], rtol=1e-9, atol=1e-9)
    with torch.inference_mode():
        exact = PiGDM(sliced, schedule, Measurement(Identity(), measurement.y, 0.5), 0.7, ConjugateGradient(3))
        assert torch.isfinite(exact(normal(2, 4, 5, 5), torch.tensor(0.4)).mean).all()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="chunk"):
        SliceWise(Watched(), 0)
    with pytest.raises(ValueError, match="expected volumes"):
        SliceWise(Watched())(normal(2, 4, 4), torch.tensor(0.5))
    with pytest.raises(ValueError, match="'shift' must be"):
        SliceWise(Watched())(normal(2, 3, 4, 4), torch.tensor(0.5), shift=normal(2, 1))
