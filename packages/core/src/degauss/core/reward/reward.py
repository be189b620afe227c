"""What is to be made large: a number for each sequence.

A reward scores whole, clean sequences and may be anything: a network, a program, a table of measurements. One that can
be differentiated scores *weights*, points of the simplex for each position, of which a sequence is the one-hot corner;
it is what guidance and fine-tuning by backpropagation ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from degauss.core.errors import InputError

Reward = Callable[[Tensor], Tensor]
"""Tokens 0, ..., V - 1, int64 ``[batch, length]`` -> ``[batch]``, higher is better. Rows do not know of each other."""

SoftReward = Callable[[Tensor], Tensor]
"""Weights ``[batch, length, V]`` (>= 0, a position's sum to 1) in the default dtype -> ``[batch]``, differentiable."""


@dataclass(frozen=True, eq=False)
class Hardened:
    """A reward of weights as a reward of sequences: it is asked about their one-hot weights."""

    soft: SoftReward
    vocabulary: int

    def __call__(self, x: Tensor) -> Tensor:
        return self.soft(one_hot(x, self.vocabulary).to(torch.get_default_dtype()))


@dataclass(eq=False)
class Counted:
    """A reward of either kind that counts the sequences it is asked about, and whose answers are checked.

    ``name`` is what messages call it. Raises `InputError` where the answer is not one finite number for each sequence.
    The check waits for the device.
    """

    reward: Reward | SoftReward
    name: str = "the reward"
    calls: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        values = self.reward(x)
        self.calls += len(x)
        if values.shape != (len(x),):
            raise InputError(
                f"{self.name} must return one number for each of {len(x)} sequences, "
                f"but returned shape {tuple(values.shape)}."
            )
        wrong = ~torch.isfinite(values)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0, 0])
            raise InputError(
                f"{self.name} must return finite numbers, but returned {float(values[row])} for sequence {row} of "
                f"{len(x)} (from 0)."
            )
        return values


def name_of(reward: Reward | SoftReward) -> str:
    """What a reward is called: its ``name``, the name of its function, or that of its class."""
    name = getattr(reward, "name", None) or getattr(reward, "__name__", None)
    return name if isinstance(name, str) else type(reward).__name__
