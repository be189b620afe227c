"""Posteriors over clean data: what every denoiser returns.

A denoiser answers one question, "given this noisy state, what was the clean one?", and the answer is a
distribution. Continuous methods need only its mean; discrete ones need a probability for each token.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Point(NamedTuple):
    """The posterior mean E[x0 | x_t] of continuous data, shape ``[batch, *event]``, in the units of x0."""

    mean: Tensor


class Categorical(NamedTuple):
    """Token posteriors p(x0 | x_t) as unnormalised log-probabilities, shape ``[batch, *event, vocabulary]``."""

    logits: Tensor
