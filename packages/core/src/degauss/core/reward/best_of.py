r"""Best of n: draw several sequences for each design and keep the one with the highest reward.

Of N independent draws from p, with F(r) = P[reward <= r] under p, a sequence x is kept with probability

    p(x) (F(r)^N - F(r-)^N) / P[reward = r],   r = r(x),   F(r-) = P[reward < r],

which for N = 1 is p: sampling as it is. With guidance the draws are guided and not corrected; the best of one is then
classifier guidance alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from degauss.core.errors import check_range
from degauss.core.reward.search import Found, Run, copies


@dataclass(frozen=True)
class BestOf:
    """n designs, each the best of ``draws`` >= 1; of equals the first.

    n (1 + N (steps - 1)) evaluations and n N reward calls for N draws. Raises `InputError` below 1.
    """

    draws: int = 1

    def __post_init__(self) -> None:
        check_range("draws", self.draws, 1)

    def __call__(self, run: Run, /) -> Found:
        designs, noise = len(run.start), copies(run.noise, self.draws)
        x = run.copied(run.start, 0, self.draws)
        for i in range(run.steps):
            x = run.propose(x, i, noise).x
        rewards = run.value(x, run.steps, noise)
        best = rewards.unflatten(0, (designs, self.draws)).argmax(1)
        rows = self.draws * torch.arange(designs, device=x.device) + best
        return Found(x[rows], rewards[rows], torch.ones_like(rows), None)
