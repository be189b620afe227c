"""DRAKES as an objective, and the loop that fine-tunes by any objective."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from degauss.core.errors import InputError
from degauss.core.jump import FREE, Absorbing, Subs
from degauss.core.jump.oracle import sequences
from degauss.core.noise import Noise
from degauss.core.reward.audit import enumerate_law
from degauss.core.reward.drakes import Drakes, DrakesConfig
from degauss.core.reward.finetuning import finetune, frozen, reward_and_divergence
from degauss.core.reward.kl import published_divergence
from degauss.core.reward.path_gradient import PathGradient
from degauss.core.reward.relaxed import one_hot
from degauss.core.reward.reward import Hardened
from degauss.core.train import TrainConfig

V, L = 3, 3
PROCESS = Absorbing(V)
TEMPLATE = torch.full((L,), FREE)
WANTED = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, -0.5], [0.0, 0.0, 1.0]])


def reward(tokens: Tensor) -> Tensor:
    return (tokens * WANTED).sum((1, 2)) + tokens[:, 0, 0] * tokens[:, 2, 2]


class Net(nn.Module):
    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        shape = (L * (V + 1), L * V)
        self.weight = nn.Parameter(0.5 * Noise(seed, (0,)).normal(torch.empty(1, *shape))[0])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        weights = x if x.is_floating_point() else one_hot(x, V, self.weight.dtype)
        return (weights.flatten(1) @ self.weight).unflatten(1, (L, V))


TIMED = DrakesConfig(alpha=0.2, steps=8, truncate=None, straight_through=True, restoring="timed")


def losses(config: DrakesConfig, **kwargs: Any) -> Tensor:
    count = 4000
    x = torch.full((count, L), V)
    with torch.no_grad():
        return Drakes(PROCESS, reward, config, **kwargs)(Net(1), Net(2), x, Noise(0, range(count)))


@pytest.mark.parametrize("by", ["states", "path"])
def test_the_value_of_hard_trajectories_is_the_objective(by: Any) -> None:
    """Of many steps, against the enumeration of the continuous process."""
    found = losses(replace(TIMED, steps=64, divergence_gradient=by))
    law = enumerate_law(Subs(Net(1), PROCESS), PROCESS, L, Subs(Net(2), PROCESS))
    weights = one_hot(sequences(V, L), V, torch.float64)[..., :V].float()
    objective = law.probability.detach() @ reward(weights).double() - 0.2 * law.path_divergence.detach()
    assert float(-found.mean()) == pytest.approx(float(objective), abs=0.05)


def test_the_published_divergence_costs_nothing_on_hard_trajectories() -> None:
    """However large alpha is."""
    published = losses(replace(TIMED, alpha=100.0), divergence=published_divergence)
    free = losses(replace(TIMED, alpha=0.0))
    assert torch.equal(published, free)
    assert float((losses(TIMED) - free).mean()) > 0.02


def config(out: Path, steps: int = 40, **kwargs: Any) -> TrainConfig:
    return TrainConfig(
        out=out, steps=steps, batch_size=64, lr=0.05, tracker=None, device="cpu", save_every=10**6, **kwargs
    )


OBJECTIVES = {
    "published steps": Drakes(PROCESS, reward, DrakesConfig(alpha=0.05, steps=8, truncate=4)),
    "timed": Drakes(PROCESS, reward, TIMED),
    "timed, path term": Drakes(PROCESS, reward, replace(TIMED, divergence_gradient="path")),
    "path gradient": PathGradient(PROCESS, Hardened(reward, V), 0.2),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_raises_the_reward_and_leaves_the_pretrained_copy(name: str, tmp_path: Path) -> None:
    network = Net()
    figures = reward_and_divergence(PROCESS, Hardened(reward, V))
    run = config(tmp_path, evaluate_every=20)
    finetune(network, OBJECTIVES[name], PROCESS, TEMPLATE, run, figures=figures)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    taken = [line for line in lines if "reward" in line]
    before = figures(Net(), Net(), torch.full((512, L), V), Noise(0, range(512)))
    assert before["divergence"] == 0
    assert [line["step"] for line in taken] == [20, 40]
    assert taken[-1]["reward"] > before["reward"] + 0.3
    assert taken[-1]["divergence"] > 0.05


@pytest.mark.parametrize("name", ["published steps", "path gradient"])
def test_a_run_in_two_parts_is_the_run_in_one(name: str, tmp_path: Path) -> None:
    """Bit for bit, with the average of the weights; the second part is called with the pretrained weights again."""
    runs = [("whole", 6), ("parts", 3), ("parts", 6)]
    ends: list[dict[str, Tensor]] = []
    for folder, steps in runs:
        network = Net()
        run = config(tmp_path / folder, steps, ema=0.9, schedule="constant")
        ends.append(finetune(network, OBJECTIVES[name], PROCESS, TEMPLATE, run).weights)
    assert torch.equal(ends[2]["weight"], ends[0]["weight"])
    assert not torch.equal(ends[1]["weight"], ends[0]["weight"])


def test_given_positions_are_given_to_every_trajectory(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x)
        return reward(one_hot(x, V, torch.float32)[..., :V])

    template = torch.tensor([FREE, 2, FREE])
    finetune(Net(), PathGradient(PROCESS, watched, 0.1), PROCESS, template, config(tmp_path, 2))
    assert bool((torch.cat(seen)[:, 1] == 2).all())
    with pytest.raises(InputError, match="must hold tokens 0 to 2"):
        finetune(Net(), OBJECTIVES["timed"], PROCESS, torch.tensor([FREE, 3, FREE]), config(tmp_path / "b", 2))


def test_a_frozen_copy_is_a_copy_and_frozen() -> None:
    network = Net()
    copy = frozen(network)
    assert not any(weight.requires_grad for weight in copy.parameters())
    with torch.no_grad():
        network.weight.add_(1)
    x = torch.full((1, L), V)
    assert not torch.equal(network(x, torch.tensor(0.5)), copy(x, torch.tensor(0.5)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (partial(DrakesConfig, alpha=-1.0), "alpha must be at least 0"),
        (partial(DrakesConfig, steps=0), "steps must be at least 1"),
        (partial(DrakesConfig, divergence_gradient="path"), "needs hard states"),
        (lambda: Drakes(PROCESS, reward, DrakesConfig(temperature=0.0)).rollout(), "temperature must be above 0"),
        (lambda: Drakes(PROCESS, reward, DrakesConfig(steps=8, truncate=9)).rollout(), "truncate must be between"),
    ],
)
def test_bad_numbers_are_named(bad: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bad()
