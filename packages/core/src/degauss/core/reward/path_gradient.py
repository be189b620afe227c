r"""Reward fine-tuning by the exact gradient of its objective: score functions on hard trajectories.

With R = r(x_0) - alpha log(P_theta / P_pre) of a whole trajectory (``paths``), J = E_theta R has the gradient

    grad J = E_theta (R - b) grad log P_theta(path),

for any baseline b that does not depend on the trajectory: here the mean R of the batch's other samples (Kool et al.
2019). Nothing is relaxed, nothing is truncated, and the reward need not be differentiable.

The optimum of J over all path laws is P*(path) ~ P_pre(path) exp(r / alpha), and there R is the same number for every
trajectory. So the noise of this gradient vanishes as the target is reached: keep log(P_theta / P_pre) of the *whole*
trajectory in R, also of the steps before the one in question, although their mean contribution is zero. (The gradient
is that of alpha / 2 times the variance of R / alpha with the samples held: Richter et al. 2020, VarGrad.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from degauss.core.errors import InputError, check_range
from degauss.core.jump.absorbing import Absorbing
from degauss.core.noise import Noise
from degauss.core.reward.kl import leave_one_out
from degauss.core.reward.paths import draw_path
from degauss.core.reward.relaxed import SoftNetwork
from degauss.core.reward.reward import Reward


@dataclass(frozen=True)
class PathGradient:
    """E r - alpha KL by score functions, an objective of ``finetuning``. The samples of a batch are one group.

    ``alpha`` >= 0: reward units for a nat. ``steps``: of the ancestral grid; evaluations are at most the length.
    Raises `InputError` for numbers out of their ranges.
    """

    process: Absorbing
    reward: Reward
    alpha: float
    steps: int = 1024
    checkpointing: bool = False

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1)
        if not 0 <= self.alpha < math.inf:
            raise InputError(f"alpha must be at least 0, but is {self.alpha}.")

    def __call__(self, network: SoftNetwork, pretrained: SoftNetwork, x: Tensor, noise: Noise) -> Tensor:
        """The losses ``[batch]``: their value is -R, their mean gradient an unbiased estimate of -grad J.

        ``x``: tokens ``[batch, length]``, masks where something is to be drawn; two rows or more.
        """
        path = draw_path(
            network, pretrained, self.process, x, noise, steps=self.steps, checkpointing=self.checkpointing
        )
        ratio = path.log_prob.detach() - path.log_reference
        worth = self.reward(path.tokens).double() - self.alpha * ratio
        surrogate = leave_one_out(worth) * path.log_prob
        return -worth - (surrogate - surrogate.detach())
