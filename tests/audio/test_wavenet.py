"""The denoising network: the published one to rounding, with its condition projected once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from degauss.audio.wavenet import WaveNet, WaveNetConfig
from degauss.core.errors import InputError
from degauss.core.nets.embedding import sinusoidal

SMALL = WaveNetConfig(mels=7, condition=6, channels=8, layers=4)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The benchmark, which holds the network as its formulas read."""
    path = Path(__file__).parents[2] / "packages" / "audio" / "benchmarks" / "wavenet.py"
    spec = importlib.util.spec_from_file_location("benchmarks_wavenet", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network(config: WaveNetConfig, dtype: torch.dtype = torch.float64) -> WaveNet:
    torch.manual_seed(0)
    net = WaveNet(config).to(dtype).eval()
    nn.init.normal_(net.output_projection.weight)
    return net


@pytest.mark.parametrize("cycle", [1, 3])
def test_the_formulas_as_they_read(benchmark, cycle):
    config = WaveNetConfig(mels=7, condition=6, channels=8, layers=4, cycle=cycle)
    net = network(config)
    plain = benchmark.PlainWaveNet.like(net)
    x, condition = torch.randn(3, 7, 20).double(), torch.randn(3, 6, 20).double()
    t = torch.tensor([0.01, 0.5, 1.0]).double()
    found, expected = net(x, t, net.project(condition)), plain(x, t, condition)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    one = net(x, t[1], net.project(condition))
    torch.testing.assert_close(one[1], found[1], rtol=1e-10, atol=1e-10)


def test_the_benchmark_compares_equal_networks(benchmark):
    seconds, difference = benchmark.compare(WaveNetConfig(channels=32, condition=32, layers=3), 50, 1)
    assert set(seconds) == {"straightforward, a step", "here, a step", "here, once a run"}
    assert difference < 1e-5


def test_the_published_size():
    published = WaveNetConfig(mels=80, condition=256, channels=256, layers=20)
    assert sum(weight.numel() for weight in WaveNet(published).parameters()) == 15_086_416


def test_a_new_network_says_the_same_everywhere():
    net = WaveNet(SMALL)
    out = net(torch.randn(2, 7, 9), torch.tensor(0.4), net.project(torch.randn(2, 6, 9)))
    assert torch.equal(out, out[:1, :, :1].expand_as(out))


def test_padding_changes_nothing():
    net = network(SMALL)
    x, condition = torch.randn(1, 7, 12).double(), torch.randn(1, 6, 12).double()
    alone = net(x, torch.tensor(0.3), net.project(condition))
    inside = (torch.arange(20) < 12).double()[None, None]
    padded = [torch.cat([part, 9 * torch.randn(1, part.shape[1], 8).double()], 2) for part in (x, condition)]
    beside = net(padded[0], torch.tensor(0.3), net.project(padded[1]), inside)
    torch.testing.assert_close(beside[..., :12], alone, rtol=1e-10, atol=1e-10)
    careless = net(padded[0], torch.tensor(0.3), net.project(padded[1]))
    assert not torch.allclose(careless[..., :12], alone)


def test_how_far_it_sees():
    """Dilations 1, 2, 1, 2: six frames to each side, and all of those."""
    net = network(WaveNetConfig(mels=7, condition=6, channels=8, layers=4, cycle=2))
    nn.init.ones_(net.get_parameter("input_projection.bias"))  # so that no frame is cut off by the rectifier
    x = (0.01 * torch.randn(1, 7, 21).double()).requires_grad_()
    net(x, torch.tensor(0.5), net.project(torch.randn(1, 6, 21).double()))[0, :, 10].sum().backward()
    assert x.grad is not None
    seen = (x.grad[0] != 0).any(0)
    assert seen.nonzero().flatten().tolist() == list(range(4, 17))


def test_a_time_is_embedded_as_its_published_step():
    net = network(SMALL)
    index = torch.tensor([0.0, 70.0, 99.0], dtype=torch.float64)
    steps = torch.cat(net._steps((index + 1) / 100), dim=1)[..., 0]
    expected = net.diffusion_projection(net.mlp(sinusoidal(index, 8)))
    torch.testing.assert_close(steps, expected, rtol=1e-9, atol=1e-9)


def test_gradients_reach_every_weight():
    net = network(SMALL, torch.float32)
    loss = net(torch.randn(2, 7, 9), torch.tensor([0.2, 0.9]), net.project(torch.randn(2, 6, 9))).square().sum()
    loss.backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in net.parameters())


@pytest.mark.parametrize("wrong", [{"mels": 0}, {"layers": 0}, {"channels": 5}, {"channels": 2}, {"cycle": 0}])
def test_configurations_that_are_none(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        WaveNetConfig(**wrong)
