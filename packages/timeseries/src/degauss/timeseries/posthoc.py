r"""What a network that comes afterwards makes of synthetic windows: the discriminative and the predictive score.

**Discriminative**: a recurrent classifier is trained to tell real from synthetic windows on four fifths of both, and
scored on the rest: |accuracy - 1/2|. Zero where it cannot, one half where it always can.

**Predictive**: a recurrent network is trained on synthetic windows alone to foretell the last feature one step ahead
from the others (from itself where it is the only one), and scored on real windows by its mean absolute error. It is
as low as a network trained on real windows gets, if the synthetic ones teach the same.

Both are networks of two GRU layers, trained with Adam; windows are in units where the data lie in [0, 1]. The papers'
networks have one to two layers of half as many units as features, which is two for five series; these see more, so
scores of the first kind come out higher here. Both depend on the network's seed: give several, and compare with what
real windows score against real ones.

Reference: Yoon et al. 2019, "Time-series Generative Adversarial Networks" (TimeGAN, NeurIPS), section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from degauss.core.errors import InputError, check_range
from degauss.core.train import Shuffle

Array = NDArray[np.float64]

_LEAST = 10


@dataclass(frozen=True)
class Judge:
    """The network that judges and its training: ``steps`` batches of ``batch`` windows at learning rate ``lr``."""

    hidden: int = 16
    steps: int = 500
    batch: int = 128
    lr: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("hidden", "steps", "batch"):
            check_range(name, getattr(self, name), 1)


def discriminative_score(real: Array, synthetic: Array, judge: Judge | None = None) -> float:
    """|accuracy - 1/2| in [0, 0.5] of a classifier of windows ``[n, length, features]``, as many of each side.

    Raises `InputError` for fewer than 10 windows of a side.
    """
    judge = Judge() if judge is None else judge
    count = _enough(min(len(real), len(synthetic)))
    train = round(0.8 * count)
    sides = [_tensor(_chosen(windows, count, judge.seed)) for windows in (real, synthetic)]
    labels = torch.cat([torch.ones(train), torch.zeros(train)])
    seen = torch.cat([side[:train] for side in sides])

    def error(network: nn.Module, rows: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(network(seen[rows])[:, -1, 0], labels[rows])

    network = _trained(seen, error, judge)
    with torch.no_grad():
        right = [(network(side[train:])[:, -1, 0] > 0) == (k == 0) for k, side in enumerate(sides)]
    return abs(float(torch.cat(right).double().mean()) - 0.5)


def predictive_score(real: Array, synthetic: Array, judge: Judge | None = None) -> float:
    """The mean absolute error on ``real`` of a one-step forecaster trained on ``synthetic``, both ``[n, length, ...]``.

    Raises `InputError` for fewer than 10 windows of a side.
    """
    judge = Judge() if judge is None else judge
    _enough(min(len(real), len(synthetic)))
    inputs, target = _foretelling(_tensor(synthetic))

    def error(network: nn.Module, rows: Tensor) -> Tensor:
        return (network(inputs[rows])[..., 0] - target[rows]).abs().mean()

    network = _trained(inputs, error, judge)
    with torch.no_grad():
        inputs, target = _foretelling(_tensor(real))
        return float((network(inputs)[..., 0] - target).abs().double().mean())


def _foretelling(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs ``[n, length - 1, features - 1 or 1]`` and targets ``[n, length - 1]``, one step later."""
    inputs = windows[:, :-1, :-1] if windows.shape[2] > 1 else windows[:, :-1]
    return inputs, windows[:, 1:, -1]


class _Recurrent(nn.Module):
    """Two GRU layers and one number for each time: ``[n, length, features]`` -> ``[n, length, 1]``.

    It sees features standardised as in ``seen``, what it is trained on.
    """

    def __init__(self, seen: Tensor, hidden: int) -> None:
        super().__init__()
        self.centre, self.width = seen.mean((0, 1)), seen.std((0, 1)).clamp(min=1e-6)
        self.layers = nn.GRU(seen.shape[2], hidden, num_layers=2, batch_first=True)
        self.leave = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.layers((x - self.centre) / self.width)[0])


def _trained(seen: Tensor, error: Callable[[nn.Module, Tensor], Tensor], judge: Judge) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(judge.seed)
        network = _Recurrent(seen, judge.hidden)
        optimizer = torch.optim.Adam(network.parameters(), lr=judge.lr)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, judge.steps)
        order, batch = Shuffle(len(seen), judge.seed), min(judge.batch, len(seen))
        for step in range(judge.steps):
            rows = torch.from_numpy(order(range(step * batch, (step + 1) * batch)))
            optimizer.zero_grad()
            error(network, rows).backward()
            optimizer.step()
            rate.step()
    return network


def _enough(count: int) -> int:
    if count < _LEAST:
        raise InputError(f"there are {count} windows on one side; a judge needs at least {_LEAST} of each.")
    return count


def _chosen(windows: Array, count: int, seed: int) -> Array:
    return windows[Shuffle(len(windows), seed)(range(count))]


def _tensor(windows: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(windows)).float()
