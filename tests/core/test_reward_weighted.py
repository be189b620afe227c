"""Weighted maximum likelihood: what its pools stand for, where it ends, and that it resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from degauss.core.errors import InputError
from degauss.core.jump import FREE, Absorbing, Subs
from degauss.core.jump.oracle import number_of, sequences
from degauss.core.noise import Noise
from degauss.core.reward.audit import Target, audit, enumerate_law, tilted, total_variation
from degauss.core.reward.weighted import Pool, Resampled, WeightedConfig, draw_pool, finetune_weighted
from degauss.core.train import TrainConfig

V, L = 3, 2
PROCESS = Absorbing(V)
START, TEMPLATE = torch.full((L,), V), torch.full((L,), FREE)
REWARDS = 1.5 * Noise(11, (0,)).normal(torch.empty(1, V**L))[0]
ALPHA = 0.8


def reward(x: Tensor) -> Tensor:
    return REWARDS[number_of(x, V)]


class Table(nn.Module):
    """Logits of every state: any model there is, of any order."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(Noise(seed, (0,)).normal(torch.empty(1, (V + 1) ** L, L, V))[0])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.logits[number_of(x, V + 1)]


def law(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return enumerate_law(Subs(network, PROCESS), PROCESS, L).probability


def target(network: nn.Module) -> Target:
    return tilted(law(network), reward(sequences(V, L)), ALPHA)


def pool_of(network: nn.Module, pretrained: nn.Module, size: int = 30000) -> Pool:
    return draw_pool(network, pretrained, PROCESS, START, reward, alpha=ALPHA, size=size, steps=4096, seed=5)


def histogram(tokens: Tensor, weights: Tensor) -> Tensor:
    return torch.zeros(V**L, dtype=torch.float64).index_add(0, number_of(tokens, V), weights)


@pytest.mark.parametrize("proposal", [1, 2], ids=["the pretrained model", "another model"])
def test_a_pool_stands_for_the_target_whoever_drew_it(proposal: int) -> None:
    pretrained = Table(1)
    wanted = target(pretrained).probability
    pool = pool_of(Table(proposal), pretrained)
    assert total_variation(histogram(pool.tokens, pool.probability), wanted) < 0.02
    plain = torch.full((30000,), 1 / 30000, dtype=torch.float64)
    assert total_variation(histogram(pool.tokens, plain), wanted) > 0.2


def test_without_the_ratio_of_paths_another_model_s_pool_stands_for_something_else() -> None:
    pretrained = Table(1)
    pool = pool_of(Table(2), pretrained)
    unpaid = torch.softmax(reward(pool.tokens).double() / ALPHA, 0)
    assert total_variation(histogram(pool.tokens, unpaid), target(pretrained).probability) > 0.2


def test_the_effective_size_counts_what_carries_the_weight() -> None:
    tokens = torch.zeros(8, L, dtype=torch.long)
    assert Pool(tokens, torch.zeros(8, dtype=torch.float64)).effective_size == pytest.approx(8)
    alone = torch.full((8,), -1000.0, dtype=torch.float64)
    alone[3] = 0
    assert Pool(tokens, alone).effective_size == pytest.approx(1)


def test_data_are_drawn_by_weight_and_keyed_by_their_numbers() -> None:
    pool = Pool(torch.arange(4)[:, None], torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log())
    data = Resampled(pool, 3)
    drawn = data(range(20000))[:, 0]
    shares = torch.bincount(drawn) / 20000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), rtol=0, atol=0.015)
    assert torch.equal(data([17, 3])[:, 0], drawn[[17, 3]])


def training(out: Path, steps: int, seed: int = 0) -> TrainConfig:
    return TrainConfig(
        out=out, steps=steps, batch_size=256, lr=0.05, seed=seed, tracker=None, device="cpu", save_every=1000
    )


@pytest.mark.parametrize("rounds", [1, 2])
def test_its_fixed_point_is_the_tilted_target(tmp_path: Path, rounds: int) -> None:
    network = Table(1)
    wanted = target(network)
    before = audit(law(network), wanted)
    config = WeightedConfig(ALPHA, pool=20000, rounds=rounds)
    finetune_weighted(network, PROCESS, TEMPLATE, reward, config, training(tmp_path, 150))
    after = audit(law(network), wanted)
    assert before.variation > 0.25
    assert after.variation < 0.03
    assert after.gap < 0.01 < before.gap


def test_a_second_run_goes_on_from_the_rounds_that_are_done(tmp_path: Path) -> None:
    one, two = Table(1), Table(1)
    finetune_weighted(one, PROCESS, TEMPLATE, reward, WeightedConfig(ALPHA, 500, 2), training(tmp_path / "a", 6))
    finetune_weighted(two, PROCESS, TEMPLATE, reward, WeightedConfig(ALPHA, 500, 1), training(tmp_path / "b", 6))
    again = Table(1)
    finetune_weighted(again, PROCESS, TEMPLATE, reward, WeightedConfig(ALPHA, 500, 2), training(tmp_path / "b", 6))
    assert not torch.equal(two.logits, one.logits)
    assert torch.equal(again.logits, one.logits)


def test_bad_numbers_are_named() -> None:
    with pytest.raises(InputError, match=r"alpha must be above 0, but is 0\.0"):
        WeightedConfig(0.0)
    with pytest.raises(InputError, match="pool must be at least 1"):
        WeightedConfig(1.0, pool=0)
