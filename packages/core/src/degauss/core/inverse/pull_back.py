"""The transposed Jacobian of a denoiser, applied to a vector: what guidance through the network costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.posterior import Point


class Pulled(NamedTuple):
    """The posterior mean at x, and J^T v with J its Jacobian there."""

    mean: Tensor
    gradient: Tensor


def pull_back(
    denoiser: Denoiser[Point],
    x: Tensor,
    t: Tensor,
    cond: Mapping[str, Any],
    vector: Callable[[Tensor], Tensor],
) -> Pulled:
    """J^T v for v = ``vector(mean)``, held constant: one forward and one backward pass.

    Differentiable itself where gradients are on and x asks for them, detached otherwise, so that a run of many steps
    keeps no graph; works in ``torch.inference_mode`` too.
    """
    twice = torch.is_grad_enabled() and x.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        # What inference mode made cannot be saved for a backward pass, but its copy can.
        x, t = (value.clone() if value.is_inference() else value for value in (x, t))
        leaf = x if twice else x.detach().requires_grad_(True)
        mean = denoiser(leaf, t, **cond).mean
        v = vector(mean if twice else mean.detach())
        (gradient,) = torch.autograd.grad(mean, leaf, v, create_graph=twice)
    return Pulled(mean if twice else mean.detach(), gradient)
