"""The Ito density estimator: log q of a sample, for nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from degauss.core import Noise, simulate
from degauss.core.claims import Claim, Result
from degauss.core.guide.superposition import Proposal, Superposition
from degauss.core.observe import Last

from ._problem import BATCH, SCHEDULE, log_grid, median, mixture, rate, start, verdict

CLAIM = Claim(
    paper="Skreta et al. 2025, The Superposition of Diffusion Models Using the Ito Density Estimator (theorem 1)",
    statement=(
        "Along the reverse SDE the log-density of a model is known without a divergence, from the noise it predicts; "
        "discretised, the estimate converges to the exact log-density."
    ),
    expected=(
        "(a) The median error of log q over the trajectories falls with order 0.5 (0.35 to 0.7) between 400 and 6400 "
        "steps; (b) at 800 steps the estimates correlate with the exact values by at least 0.99. Control: without "
        "the half of |score|^2 that the Ito correction leaves, the error at 800 steps is at least ten times larger."
    ),
)


def run(seeds: Sequence[int]) -> Result:
    few, coarse, fine, finest = ([_error(seed, steps) for seed in seeds] for steps in (50, 400, 800, 6400))
    orders = [rate(a[0], b[0], 16) for a, b in zip(coarse, finest, strict=True)]
    ratio = [c[2] / c[0] for c in fine]
    return Result(
        verdict(
            [0.35 <= median(orders) <= 0.7, median([c[1] for c in fine]) >= 0.99],
            [median(ratio) >= 10],
        ),
        {
            "median error of log q, 50 steps": [c[0] for c in few],
            "median error of log q, 800 steps": [c[0] for c in fine],
            "median error of log q, 6400 steps": [c[0] for c in finest],
            "order": orders,
            "correlation with the exact log q, 800 steps": [c[1] for c in fine],
            "error without the correction / error (control)": ratio,
        },
        notes="With fewer steps the bias of Euler-Maruyama, of order 1, is larger than the estimator's own error.",
    )


def _error(seed: int, steps: int) -> tuple[float, float, float]:
    """Median error of the gain in log q, its correlation with the exact gain, and the control's median error."""
    model, grid, x = mixture(seed), log_grid(steps), start(seed)
    last, watch = Last(), _Watch()
    kernel = Superposition((model,), SCHEDULE, watch)
    with torch.inference_mode():
        begin = kernel.init(x, grid).log_q[0]
        end = simulate(kernel, x, grid, Noise(seed, range(BATCH)), observe=(last,))
        exact = model.log_density(end, grid[-1]) - model.log_density(x, grid[0])
    gained = last.carry.log_q[0] - begin
    without = gained + watch.total
    correlation = float(torch.corrcoef(torch.stack([gained, exact]))[0, 1])
    return float((gained - exact).abs().median()), correlation, float((without - exact).abs().median())


class _Watch:
    """The trivial rule for one model, which adds up v |eps|^2 / (2 k^2): the term that the control leaves out."""

    def __init__(self) -> None:
        self.total: Tensor = torch.zeros(())

    def __call__(self, proposal: Proposal, /) -> Tensor:
        eps, log_q, _, k, v = proposal
        self.total = self.total + v * eps[0].square().sum(-1) / (2 * k**2)
        return torch.ones_like(log_q)
