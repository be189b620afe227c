"""Both networks: soft states, no time, classes; and what each sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from degauss.bio.nets import ConvNetConfig, TransformerConfig, rotations, turned

LENGTH, LETTERS, CLASSES = 12, 4, 3
CONV = ConvNetConfig(16, 3, (1, 2, 4))
TRANSFORMER = TransformerConfig(16, 2, 2)
BOTH = pytest.mark.parametrize("config", [CONV, TRANSFORMER])


def network(config, classes=CLASSES, length=LENGTH) -> nn.Module:
    torch.manual_seed(0)
    net = config.build(LETTERS, length, classes).eval()
    for weight in net.parameters():
        weight.data += 0.2 * torch.randn_like(weight)  # what starts at zero must not hide a fault
    return net


def states(count=3) -> torch.Tensor:
    return torch.randint(LETTERS + 1, (count, LENGTH), generator=torch.Generator().manual_seed(1))


@BOTH
def test_a_token_is_its_one_hot_row_to_the_bit(config):
    net, x = network(config), states()
    soft = nn.functional.one_hot(x, LETTERS + 1).float()
    label = torch.tensor([0, 2, 3])
    assert net(x, torch.tensor(0.3)).shape == (3, LENGTH, LETTERS)
    assert torch.equal(net(x, torch.tensor(0.3), label=label), net(soft, torch.tensor(0.3), label=label))


@BOTH
def test_gradients_reach_soft_states(config):
    net = network(config, length=4).double()
    soft = torch.softmax(torch.randn(1, 4, LETTERS + 1, dtype=torch.float64), -1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: net(x)[:, 3].sum(), soft, atol=1e-6)


@BOTH
def test_time_is_not_looked_at(config):
    net, x = network(config), states()
    answers = [net(x, t) for t in (None, torch.tensor(0.0), torch.tensor(1.0), torch.rand(3))]
    assert all(torch.equal(answers[0], answer) for answer in answers)


@BOTH
def test_classes_change_the_answer_and_none_is_the_last(config):
    net, x = network(config), states()
    answers = [net(x, label=torch.tensor(k)) for k in range(CLASSES + 1)]
    assert torch.equal(net(x), answers[CLASSES])
    for k in range(CLASSES):
        assert not torch.allclose(answers[k], answers[CLASSES])
    mixed = net(x, label=torch.tensor([2, 0, CLASSES]))
    for row, k in enumerate((2, 0, CLASSES)):
        torch.testing.assert_close(mixed[row], answers[k][row])


@BOTH
def test_rows_do_not_see_each_other(config):
    net, x = network(config), states()
    torch.testing.assert_close(net(x)[1], net(x[1:2])[0])


def test_a_convolution_sees_as_far_as_its_dilations_say():
    net, length = network(CONV, length=40), 40
    x = torch.zeros(1, length, LETTERS + 1).requires_grad_()
    net(x)[0, 20].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum(-1)[0].nonzero()[:, 0]
    reach = 1 + sum(CONV.dilations)  # (3 - 1) / 2 of the first layer and of each
    assert (int(seen.min()), int(seen.max())) == (20 - reach, 20 + reach)


def test_a_transformer_knows_places_where_all_is_masked():
    net = network(TRANSFORMER)
    blank = net(torch.full((1, LENGTH), LETTERS))[0]
    assert (blank[1:] - blank[:-1]).abs().amax(-1).min() > 1e-3


def test_rotary_products_depend_on_the_distance_alone():
    turns = rotations(9, 8).double()
    query, key = torch.randn(2, 8, dtype=torch.float64).unbind()
    products = turned(query.expand(9, 8), turns) @ turned(key.expand(9, 8), turns).T
    for distance in range(-8, 9):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-6)
    assert products.diagonal(1)[0] != products.diagonal(2)[0]


def test_a_transformer_has_one_length():
    with pytest.raises(ValueError, match="takes 12 positions, got 11"):
        network(TRANSFORMER)(states()[:, 1:])


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvNetConfig(kernel=4),
        lambda: ConvNetConfig(dilations=()),
        lambda: ConvNetConfig(width=0),
        lambda: TransformerConfig(width=12, heads=4),
        lambda: TransformerConfig(depth=0),
    ],
)
def test_sizes_that_cannot_be(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_the_published_convolutions_have_three_million_weights():
    net = ConvNetConfig().build(4, 200, 0)
    assert 2.9e6 < sum(weight.numel() for weight in net.parameters()) < 3.1e6
