r"""The fine-tuning loop: an objective, a network, and the frozen copy of it that the objective refers to.

It runs on ``core.train``, so it resumes exactly, keeps an average of the weights where one is asked for, writes
metrics.jsonl, and does the same on any number of processes up to what an objective's groups are (a share of the batch).
Step k draws trajectories of its own from the sample numbers kB, ..., kB + B - 1.

An *objective* is ``objective(network, pretrained, x, noise) -> losses [batch]``, with x the states to start from:
``drakes.Drakes``, ``path_gradient.PathGradient``, or a method of your own (a policy gradient with another baseline, a
clipped ratio, a bridge loss): what it needs of trajectories is in ``relaxed``, ``paths`` and ``kl``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.infill import FREE, check_template
from degauss.core.noise import Noise
from degauss.core.reward.paths import draw_path
from degauss.core.reward.relaxed import SoftNetwork
from degauss.core.reward.reward import Reward
from degauss.core.train import TrainConfig, Trained, train

Objective = Callable[[SoftNetwork, SoftNetwork, Tensor, Noise], Tensor]
"""(network, pretrained, x, noise) -> the losses ``[batch]``; x: tokens ``[batch, length]``, masks where free."""

Figures = Callable[[SoftNetwork, SoftNetwork, Tensor, Noise], Mapping[str, float]]
"""(network, pretrained, x, noise) -> what is logged."""


def frozen(network: nn.Module) -> nn.Module:
    """A copy that does not learn, in eval mode."""
    return copy.deepcopy(network).requires_grad_(False).eval()


def finetune(
    network: nn.Module,
    objective: Objective,
    process: Absorbing,
    template: Tensor,
    config: TrainConfig,
    *,
    figures: Figures | None = None,
    figure_samples: int = 256,
    resume: bool = True,
) -> Trained:
    """Fine-tune ``network`` in place; it holds the pretrained weights when called, also where a run is resumed.

    ``network(x, t)`` takes tokens ``[batch, length]`` and, for a relaxed objective, weights ``[batch, length, V + 1]``.
    ``template``: ``[length]``, the tokens that are given, ``FREE`` elsewhere. ``figures`` are taken of
    ``figure_samples`` trajectories as ``config.evaluate_every`` says. Errors are those of ``train``.
    """
    pretrained = frozen(network)
    given = check_template(template, (1, len(template)), process.vocabulary)[0]
    start = torch.where(given == FREE, process.mask, given)

    def loss(network: nn.Module, x: Tensor, noise: Noise) -> Tensor:
        return objective(network, pretrained.to(x.device), x, noise)

    def evaluated(take: Figures, network: nn.Module) -> Mapping[str, float]:
        x = start.to(next(network.parameters()).device).expand(figure_samples, -1)
        return take(network, pretrained.to(x.device), x, Noise(config.seed, range(figure_samples)).fork(0))

    return train(
        network,
        loss,
        lambda samples: start.repeat(len(samples), 1),
        config,
        evaluate=None if figures is None else partial(evaluated, figures),
        resume=resume,
    )


def reward_and_divergence(process: Absorbing, reward: Reward, steps: int = 1024) -> Figures:
    """Figures of hard trajectories: the mean reward, and the relative entropy of the path law in nats."""

    def figures(network: SoftNetwork, pretrained: SoftNetwork, x: Tensor, noise: Noise) -> Mapping[str, float]:
        with torch.inference_mode():
            path = draw_path(network, pretrained, process, x, noise, steps=steps)
            apart = path.log_prob - path.log_reference
            return {"reward": float(reward(path.tokens).mean()), "divergence": float(apart.mean())}

    return figures
