"""The TSDiff backbone: shapes, conditioning, the published size, and the kept kernels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from degauss.core.nets.embedding import sinusoidal
from degauss.timeseries.nets import S4Net, S4NetConfig


def small(seed=0, **changes):
    torch.manual_seed(seed)
    config = S4NetConfig(channels=3, length=12, hidden=8, blocks=2, state=8, step_embedding=8)
    return S4Net(replace(config, **changes))


@pytest.mark.parametrize("length", [1, 5, 12, 20])
def test_shapes(length):
    net = small()
    assert net(torch.randn(4, length, 3), torch.rand(4)).shape == (4, length, 3)


def test_parameter_count_of_the_published_network():
    net = S4Net(S4NetConfig(channels=13, length=390))
    count = sum(p.numel() for p in net.parameters())
    hidden, blocks, features = 64, 3, 4
    published = 192_845  # exchange_rate: 13 channels, 4 time features that the trained network is never given
    feature_encoders = blocks * (features * hidden + hidden)
    last_residual = hidden * hidden + hidden
    assert count == published - feature_encoders - last_residual


def test_every_parameter_is_used():
    net = small()
    net(torch.randn(4, 12, 3), torch.rand(4)).square().sum().backward()
    unused = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


def plain_forward(net, x, t):
    """The network as the paper writes it: channels first, 1x1 convolutions, tanh, direct two-sided sums."""
    c, hidden = net.config, net.config.hidden
    conv = nn.functional.conv1d
    embedded = net.time(sinusoidal(t * c.steps - 1, c.step_embedding))
    h = torch.relu(net.enter(x)).transpose(1, 2)
    past, future = net.kernel.kernels(x.shape[1])
    lag = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
    toeplitz = torch.where(lag >= 0, past[:, lag.clamp(min=0)], future[:, (-lag - 1).clamp(min=0)])
    skips = []
    for i, block in enumerate(net.blocks):
        rows = slice(i * hidden, (i + 1) * hidden)
        time = nn.functional.linear(embedded, net.block_time.weight[rows], net.block_time.bias[rows])
        v = h + time[:, :, None]
        z = block.norm(v.transpose(1, 2)).transpose(1, 2)
        y = torch.einsum("hlm,bhm->bhl", toeplitz[rows], z) + net.kernel.skip[rows, None] * z
        o = conv(nn.functional.gelu(y), block.mix.weight[..., None], block.mix.bias) + v
        o = torch.tanh(o) * torch.sigmoid(o)
        skips.append(conv(o, net.skips[i].weight[..., None], net.skips[i].bias))
        if i + 1 < c.blocks:
            h = h + conv(o, net.residuals[i].weight[..., None], net.residuals[i].bias)
    return net.head(torch.stack(skips).sum(0).transpose(1, 2)) + (x if c.init_skip else 0)


@pytest.mark.parametrize("init_skip", [True, False])
def test_network_is_the_one_of_the_paper(init_skip):
    net = small(init_skip=init_skip, blocks=3).double()
    x, t = torch.randn(4, 12, 3, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    torch.testing.assert_close(net(x, t), plain_forward(net, x, t))


def test_time_is_the_published_step_index():
    net = small()
    seen = []
    net.time.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(torch.randn(3, 12, 3), torch.tensor([0.01, 1.0, 0.505]))
    expected = sinusoidal(torch.tensor([0.0, 99.0, 49.5]), 8)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-4)


def test_one_time_for_the_batch_is_embedded_once():
    net = small().double()
    seen = []
    net.time.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    x = torch.randn(4, 12, 3, dtype=torch.float64)
    shared = net(x, torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(shared, net(x, torch.full((4,), 0.3, dtype=torch.float64)))
    assert [math.prod(shape) for shape in seen] == [8, 4 * 8]


def test_series_of_a_batch_do_not_meet():
    net = small().double()
    x, t, order = torch.randn(5, 12, 3, dtype=torch.float64), torch.rand(5).double(), torch.randperm(5)
    torch.testing.assert_close(net(x[order], t[order]), net(x, t)[order])
    torch.testing.assert_close(net(x[:1], t[:1]), net(x, t)[:1])


def test_both_directions_in_time_are_seen():
    net = small()
    x = torch.randn(1, 12, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x, torch.tensor(0.5))[0, 5].sum(), x)
    assert (gradient.abs().sum(-1) > 0).all()


def test_kept_kernels_change_no_number():
    net = small()
    x, t = torch.randn(4, 12, 3), torch.tensor(0.5)
    trained = net(x, t).detach()
    with torch.no_grad():
        first, second = net(x, t), net(x, t)
    assert torch.equal(trained, first)
    assert torch.equal(first, second)
    guided = x.clone().requires_grad_()
    (fresh,) = torch.autograd.grad(net(guided, t).square().sum(), guided)
    net.requires_grad_(False)
    (kept,) = torch.autograd.grad(net(guided, t).square().sum(), guided)
    torch.testing.assert_close(kept, fresh, rtol=0, atol=0)


def test_kernels_are_computed_once_over_a_sampling_run(monkeypatch):
    net = small().eval()
    calls = []
    compute = net.kernel._spectrum
    monkeypatch.setattr(net.kernel, "_spectrum", lambda length: calls.append(length) or compute(length))
    with torch.no_grad():
        for i in range(10, 0, -1):
            net(torch.randn(2, 12, 3), torch.tensor(i / 10))
    assert calls == [12]


def test_an_optimizer_step_reaches_the_samples():
    net = small()
    x, t = torch.randn(4, 12, 3), torch.tensor(0.5)
    with torch.no_grad():
        before = net(x, t)
    optimizer = torch.optim.SGD(net.kernel.parameters(), lr=1e-3)
    net(x, t).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        after = net(x, t)
    assert not torch.equal(before, after)
    assert torch.equal(after, net(x, t).detach())


def test_gradients():
    net = small(channels=1, length=4, hidden=2, state=2, step_embedding=4).double()
    x = torch.randn(2, 4, 1, dtype=torch.float64, requires_grad=True)
    t = torch.rand(2, dtype=torch.float64)
    names, values = zip(*net.named_parameters(), strict=True)

    def run(x, *values):
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x, t))

    assert torch.autograd.gradcheck(run, (x, *values))


def test_dropout_acts_in_training_only():
    net = small(dropout=0.5)
    x, t = torch.randn(4, 12, 3), torch.tensor(0.5)
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


def test_bfloat16_autocast():
    net = small()
    x, t = torch.randn(4, 12, 3), torch.rand(4)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, t)
    gradients = torch.autograd.grad(low.square().mean(), tuple(net.parameters()))
    assert all(g.isfinite().all() for g in gradients)
    torch.testing.assert_close(low.float(), net(x, t), rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on the first use of its compiler
def test_one_graph_without_breaks():
    net = small()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    x, t = torch.randn(4, 12, 3), torch.rand(4)
    torch.testing.assert_close(compiled(x, t), net(x, t))
    weights = tuple(net.parameters())
    found = torch.autograd.grad(compiled(x, t).square().mean(), weights)
    expected = torch.autograd.grad(net(x, t).square().mean(), weights)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, t), net(x, t))


def test_it_learns_a_two_sided_filter():
    """The sum of the values three back and two ahead: with one direction alone the loss stays near 1."""
    net = small(channels=1, hidden=16, length=32, init_skip=False)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(300):
        x = torch.randn(32, 32, 1)
        target = torch.zeros_like(x)
        target[:, 3:] += x[:, :-3]
        target[:, :-2] += x[:, 2:]
        loss = (net(x, torch.tensor(0.5)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.0
    assert losses[-1] < 0.4
