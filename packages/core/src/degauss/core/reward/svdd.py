r"""SVDD: at every step keep one of several proposals, by what it promises (Li et al. 2024, algorithm 1).

From x_t a row draws M proposals, and keeps the m-th with probability in proportion to

    exp(v(x_s^m) / alpha) p(x_s^m | x_t) / q(x_s^m | x_t),

or the best one where alpha is 0, as the authors' software does. The value is the reward of a completion (their SVDD-PM,
"posterior mean", which needs no value network). Rows are on their own. As M grows each step follows the
tilted law exactly; the sample is only as good as the values, for no weight corrects them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from degauss.core.errors import InputError, check_range
from degauss.core.jump.categorical import draw
from degauss.core.reward.search import Completion, Found, Run, copies, most_likely


@dataclass(frozen=True)
class SVDD:
    """n designs, each the survivor of ``proposals`` >= 1 a step; ``alpha`` >= 0, in units of the reward.

    n (1 + M (steps - 1)) evaluations and n M steps reward calls for M proposals and one completion. Raises `InputError`
    for settings out of range.
    """

    alpha: float
    proposals: int
    completion: Completion = most_likely

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise InputError(f"alpha must be at least 0, but is {self.alpha}.")
        check_range("proposals", self.proposals, 1)

    def __call__(self, run: Run, /) -> Found:
        x, noise = run.start, copies(run.noise, self.proposals)
        designs, value = len(x), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        first = self.proposals * torch.arange(designs, device=x.device)
        for i in range(run.steps):
            candidates, log_ratio = run.propose(run.copied(x, i, self.proposals), i, noise)
            values = run.value(candidates, i + 1, noise, self.completion)
            table, ratio = (numbers.unflatten(0, (designs, self.proposals)) for numbers in (values, log_ratio))
            if self.alpha:
                kept = draw(table / self.alpha + ratio, run.choices(x, i, run.noise))
            else:
                kept = torch.where(ratio.isneginf(), -math.inf, table).argmax(1)
            # Where all proposals are lost (ratio 0) there is none to keep: the last step will find it.
            kept = kept.clamp(max=self.proposals - 1)
            x, value = run.follow(candidates, first + kept), values[first + kept]
        return Found(x, value, torch.ones_like(first), None)
