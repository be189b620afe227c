"""The network of CSDI: the published one to rounding, and what is computed once for a run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from degauss.core.errors import InputError
from degauss.timeseries.csdi import CSDI, Units
from degauss.timeseries.csdi_net import CSDIConfig, CSDINet

SMALL = CSDIConfig(
    features=5, length=7, steps=20, channels=8, layers=3, heads=2, feedforward=12,
    step_embedding=12, time_embedding=10, feature_embedding=3,
)  # fmt: skip


# --- the published layout: convolutions and torch's own transformer, features before times ---


class PublishedBlock(nn.Module):
    def __init__(self, config: CSDIConfig) -> None:
        super().__init__()
        width = config.channels
        self.diffusion_projection = nn.Linear(config.step_embedding, width)
        self.cond_projection = nn.Conv1d(config.time_embedding + config.feature_embedding + 1, 2 * width, 1)
        self.mid_projection = nn.Conv1d(width, 2 * width, 1)
        self.output_projection = nn.Conv1d(width, 2 * width, 1)
        self.time_layer = transformer(config)
        self.feature_layer = transformer(config)

    def forward(self, x: Tensor, side: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        batch, width, features, length = x.shape
        y = x + self.diffusion_projection(step)[:, :, None, None]
        if length > 1:
            rows = y.permute(3, 0, 2, 1).reshape(length, batch * features, width)
            y = self.time_layer(rows).reshape(length, batch, features, width).permute(1, 3, 2, 0)
        if features > 1:
            rows = y.permute(2, 0, 3, 1).reshape(features, batch * length, width)
            y = self.feature_layer(rows).reshape(features, batch, length, width).permute(1, 3, 0, 2)
        y = self.mid_projection(y.flatten(2)) + self.cond_projection(side.flatten(2))
        gate, value = y.chunk(2, 1)
        residual, skip = self.output_projection(torch.sigmoid(gate) * torch.tanh(value)).chunk(2, 1)
        return (x + residual.view_as(x)) / math.sqrt(2), skip.view_as(x)


class PublishedDiffusion(nn.Module):
    def __init__(self, config: CSDIConfig) -> None:
        super().__init__()
        sizes = (config.step_embedding, config.step_embedding)
        self.diffusion_embedding = nn.ModuleDict({f"projection{k}": nn.Linear(*sizes) for k in (1, 2)})
        self.input_projection = nn.Conv1d(2, config.channels, 1)
        self.output_projection1 = nn.Conv1d(config.channels, config.channels, 1)
        self.output_projection2 = nn.Conv1d(config.channels, 1, 1)
        self.residual_layers = nn.ModuleList(PublishedBlock(config) for _ in range(config.layers))


class Published(nn.Module):
    """``x``, ``known``, ``mask``: ``[batch, features, length]``; ``step``: whole numbers from 0."""

    def __init__(self, config: CSDIConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_layer = nn.Embedding(config.features, config.feature_embedding)
        self.diffmodel = PublishedDiffusion(config)

    def forward(self, x: Tensor, step: Tensor, known: Tensor, mask: Tensor) -> Tensor:
        batch, features, length = x.shape
        config, net = self.config, self.diffmodel
        half = config.step_embedding // 2
        angle = step[:, None] * 10.0 ** (torch.arange(half) / (half - 1) * 4.0)
        embedding = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
        for layer in net.diffusion_embedding.values():
            embedding = torch.nn.functional.silu(layer(embedding))
        time = torch.zeros(length, config.time_embedding)
        rate = 1 / 10000.0 ** (torch.arange(0, config.time_embedding, 2) / config.time_embedding)
        time[:, 0::2] = torch.sin(torch.arange(length)[:, None] * rate)
        time[:, 1::2] = torch.cos(torch.arange(length)[:, None] * rate)
        side = torch.cat(
            [
                time.T[None, :, None].expand(batch, -1, features, -1),
                self.embed_layer.weight.T[None, :, :, None].expand(batch, -1, -1, length),
                mask[:, None],
            ],
            dim=1,
        )
        pair = torch.stack([mask * known, (1 - mask) * x], dim=1)
        stream = torch.relu(net.input_projection(pair.flatten(2))).view(batch, -1, features, length)
        skips = []
        for block in net.residual_layers:
            stream, skip = block(stream, side, embedding)
            skips.append(skip)
        total = torch.stack(skips).sum(0) / math.sqrt(len(skips))
        head = torch.relu(net.output_projection1(total.flatten(2)))
        return net.output_projection2(head).view(batch, features, length)


def transformer(config: CSDIConfig) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(config.channels, config.heads, config.feedforward, activation="gelu")
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def published(config: CSDIConfig, path: Path) -> Published:
    """Random weights, in a file under the published names."""
    torch.manual_seed(0)
    model = Published(config).eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    save_file(model.state_dict(), path)
    return model


def units(features: int) -> Units:
    return Units(np.zeros(features), np.ones(features))


@pytest.mark.parametrize("config", [SMALL, CSDIConfig(features=6, length=9)], ids=["small", "published sizes"])
def test_published_weights_give_the_published_output(config, tmp_path):
    model = published(config, tmp_path / "weights.safetensors")
    ours = CSDI.load_published(tmp_path / "weights.safetensors", units(config.features), config)
    assert not ours.network.training
    assert not any(weight.requires_grad for weight in ours.network.parameters())
    torch.manual_seed(1)
    shape = (4, config.features, config.length)
    x, known, mask = torch.randn(shape), torch.randn(shape), (torch.rand(shape) < 0.4).float()
    step = torch.tensor([0, 3, config.steps // 2, config.steps - 1])
    with torch.no_grad():
        expected = model(x, step, known, mask)
        found = ours.network(x.mT, (step + 1) / config.steps, known.mT, mask.mT).mT
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("features", "length"), [(1, 6), (4, 1)])
def test_an_axis_of_length_one_is_left_out_as_published(features, length, tmp_path):
    config = CSDIConfig(features=features, length=length, channels=8, heads=2, layers=2, step_embedding=8)
    model = published(config, tmp_path / "weights.safetensors")
    ours = CSDI.load_published(tmp_path / "weights.safetensors", units(features), config)
    x, mask = torch.randn(2, features, length), torch.ones(2, features, length)
    mask[:, 0, 0] = 0
    with torch.no_grad():
        expected = model(x, torch.tensor([3, 7]), x, mask)
        found = ours.network(x.mT, torch.tensor([4, 8]) / config.steps, x.mT, mask.mT).mT
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_published_size():
    assert sum(weight.numel() for weight in CSDINet(CSDIConfig()).parameters()) == 414_065


def test_published_files_that_do_not_fit(tmp_path):
    path = tmp_path / "weights.safetensors"
    published(SMALL, path)
    with pytest.raises(InputError, match="does not fit the network"):
        CSDI.load_published(path, units(35))
    weights = dict(Published(SMALL).state_dict())
    weights["diffmodel.input_projection.weight"] = torch.zeros(8, 2, 3)
    save_file(weights, path)
    with pytest.raises(InputError, match=r"input_projection.weight' is \(8, 2, 3\), expected \(8, 2\)"):
        CSDI.load_published(path, units(5), SMALL)
    with pytest.raises(InputError, match="does not exist"):
        CSDI.load_published(tmp_path / "nowhere", units(5), SMALL)
    (tmp_path / "model.pth").write_bytes(b"\x80\x02pickle")
    with pytest.raises(InputError, match="no safetensors file"):
        CSDI.load_published(tmp_path / "model.pth", units(5), SMALL)


# --- ours ---


@pytest.fixture
def network() -> CSDINet:
    torch.manual_seed(2)
    net = CSDINet(SMALL).eval()
    nn.init.normal_(net.output_projection2.weight)
    return net


def test_a_new_network_predicts_no_noise():
    x = torch.randn(2, 7, 5)
    out = CSDINet(SMALL)(x, torch.tensor(0.5), x, torch.ones_like(x))
    assert torch.equal(out, torch.zeros_like(x) + out[0, 0, 0])


def test_sides_given_or_made(network):
    x, known, mask = torch.randn(3, 7, 5), torch.randn(1, 7, 5), (torch.rand(1, 7, 5) < 0.5).float()
    t = torch.tensor([0.2, 0.5, 1.0])
    whole = network(x, t, known.expand_as(x), mask.expand_as(x))
    sides = network.sides(mask)
    assert [side.shape for side in sides] == [(1, 7, 5, 16)] * 3
    torch.testing.assert_close(network(x, t, known, mask, sides), whole, rtol=1e-5, atol=1e-5)


def test_rows_with_masks_of_their_own_do_not_mix(network):
    x, known, mask = torch.randn(4, 7, 5), torch.randn(4, 7, 5), (torch.rand(4, 7, 5) < 0.5).float()
    whole = network(x, torch.tensor(0.5), known, mask)
    alone = [network(x[k, None], torch.tensor(0.5), known[k, None], mask[k, None]) for k in range(4)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_what_is_not_known_is_not_seen(network):
    """The known values count only under the mask, the noisy ones only outside of it."""
    x, known, mask = torch.randn(2, 7, 5), torch.randn(2, 7, 5), (torch.rand(2, 7, 5) < 0.5).float()
    out = network(x, torch.tensor(0.5), known, mask)
    other = network(x + 9 * mask, torch.tensor(0.5), known + 9 * (1 - mask), mask)
    torch.testing.assert_close(out, other)
    assert not torch.allclose(out, network(x, torch.tensor(0.5), known + mask, mask))
    assert not torch.allclose(out, network(x + 1 - mask, torch.tensor(0.5), known, mask))


def test_every_value_may_tell_of_every_other(network):
    x, mask = torch.zeros(1, 7, 5), torch.ones(1, 7, 5)
    mask[0, 3, 2] = 0
    known = torch.randn(1, 7, 5, requires_grad=True)
    network(x, torch.tensor(0.5), known, mask)[0, 3, 2].backward()
    assert known.grad is not None
    assert torch.equal(known.grad != 0, mask.bool())


def test_a_time_counts_as_the_nearest_step(network):
    x, mask = torch.randn(1, 7, 5), torch.zeros(1, 7, 5)
    out = [network(x, torch.tensor(t), x, mask) for t in (0.50, 0.52, 0.55)]
    assert torch.equal(out[0], out[1])
    assert not torch.allclose(out[0], out[2])


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": 0}, {"length": 0}, {"layers": 0}, {"heads": 0}, {"heads": 7}, {"dropout": 1.5},
        {"time_embedding": 5}, {"step_embedding": 2}, {"beta_last": 1.0}, {"beta_first": 0.6},
    ],
)  # fmt: skip
def test_configurations_that_are_none(wrong):
    with pytest.raises(InputError, match=next(iter(wrong)).split("_")[0]):
        CSDIConfig(**wrong)
