r"""DRAKES: reward fine-tuning by backpropagation through the relaxed trajectory (Wang et al. 2024).

    maximise  J = E_theta r(x_0) - alpha KL(P_theta || P_pre)

by the derivative of r along the Gumbel-softmax trajectory (``relaxed``), whose end is a one-hot, straight through. The
reward must be differentiable in weights. Its gradient has little noise and a bias: soft states are not those of the
process, and straight through the derivative is that of another function. Where the bias balances the divergence the
search stops, short of the target. ``path_gradient`` has none of it, for more noise; ``audit`` tells how far each ends
from the target. ``Joint`` steps straight through have derivatives that grow without bound over many steps: choose
"timed" with them.

The divergence is the process's own (``kl``). Its gradient goes *through the states* with the reward's, or its states
are constants and the score-function term does what is missing (``path``), exactly where states are hard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from degauss.core.errors import InputError, check_range
from degauss.core.jump.absorbing import Absorbing
from degauss.core.noise import Noise
from degauss.core.reward.kl import Divergence, path_term, step_divergence
from degauss.core.reward.relaxed import GumbelSoftmax, Joint, Rollout, SoftNetwork, Timed
from degauss.core.reward.reward import SoftReward


@dataclass(frozen=True)
class DrakesConfig:
    """How DRAKES is run. Raises `InputError` for a value out of its range."""

    alpha: float = 0.001
    """Reward units for a nat of divergence, >= 0."""
    steps: int = 128
    """Of the trajectory."""
    truncate: int | None = 50
    """How many of the last steps carry gradient; None for all."""
    temperature: float = 1.0
    """Of the Gumbel-softmax, > 0."""
    straight_through: bool = False
    """Hard states, with the derivative of soft ones."""
    restoring: Literal["joint", "timed"] = "joint"
    """Whether a position is restored is relaxed together with what by (published), or drawn (see ``relaxed``)."""
    divergence_gradient: Literal["states", "path"] = "states"
    """Through the states, or by the score function of hard ones."""
    checkpointing: bool = True
    """Memory that is flat in the number of steps, for two further evaluations a step."""

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1)
        if not 0 <= self.alpha < math.inf:
            raise InputError(f"alpha must be at least 0, but is {self.alpha}.")
        if self.divergence_gradient == "path" and not self.straight_through:
            raise InputError("divergence_gradient 'path' needs hard states: set straight_through.")


@dataclass(frozen=True)
class Drakes:
    """DRAKES as an objective of ``finetuning``. With ``divergence_gradient`` "path" a batch is one group."""

    process: Absorbing
    reward: SoftReward
    config: DrakesConfig = DrakesConfig()
    divergence: Divergence = step_divergence

    def rollout(self) -> Rollout:
        config = self.config
        draw = GumbelSoftmax(config.temperature, config.straight_through)
        return Rollout(
            self.process,
            config.steps,
            Joint(draw) if config.restoring == "joint" else Timed(draw),
            self.divergence,
            config.truncate,
            config.divergence_gradient == "states",
            config.checkpointing,
        )

    def __call__(self, network: SoftNetwork, pretrained: SoftNetwork, x: Tensor, noise: Noise) -> Tensor:
        """The losses alpha KL - r, ``[batch]``; ``x``: tokens ``[batch, length]``, masks where something is drawn."""
        end = self.rollout()(network, pretrained, x, noise)
        loss = self.config.alpha * end.divergence.sum(0) - self.reward(end.tokens).double()
        if self.config.divergence_gradient == "path":
            loss = loss + self.config.alpha * path_term(end.log_prob, end.divergence)
        return loss
