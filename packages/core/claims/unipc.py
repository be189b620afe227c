"""UniPC: a corrector that costs no evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from degauss.core.claims import Claim, Result
from degauss.core.gaussian import dpmpp, unipc
from degauss.core.gaussian.exponential import data_table
from degauss.core.gaussian.unipc import unipc_table

from ._problem import error, fine_start, full_order, log_grid, median, order, verdict

CLAIM = Claim(
    paper="Zhao, Bai, Rao, Zhou and Lu 2023, UniPC (theorem 3.1, corollary 3.2, table 1)",
    statement=(
        "UniPC-p, a predictor of order p with the corrector, converges with order p + 1 at no further "
        "evaluation, and beats DPM-Solver++(2M) with few evaluations."
    ),
    expected=(
        "(a) UniPC-1, -2 and -3 measure at least 1.85, 2.85 and 3.85; (b) at 10 evaluations UniPC-2 and "
        "UniPC-3 have a smaller error than 2M for every seed. Control: the predictors of order 2 and 3 "
        "without the corrector must measure below 2.5 and 3.5."
    ),
)

ORDERS = (1, 2, 3)


def run(seeds: Sequence[int]) -> Result:
    corrected = {
        p: [order(full_order(unipc_table, order=p), seed, 160, 320, fine_start) for seed in seeds] for p in ORDERS
    }
    predictors = {
        p: [order(full_order(data_table, order=p), seed, 160, 320, fine_start) for seed in seeds] for p in (2, 3)
    }
    at_ten = {
        name: [error(solver, seed, log_grid(10)) for seed in seeds]
        for name, solver in {"2M": dpmpp(2), "UniPC-2": unipc(2), "UniPC-3": unipc(3)}.items()
    }
    reached = [median(corrected[p]) >= p + 0.85 for p in ORDERS]
    better = [all(a < b for a, b in zip(at_ten[name], at_ten["2M"], strict=True)) for name in ("UniPC-2", "UniPC-3")]
    return Result(
        verdict([*reached, *better], [median(values) < p + 0.5 for p, values in predictors.items()]),
        {
            **{f"order, UniPC-{p}": values for p, values in corrected.items()},
            **{f"order, predictor {p} alone (control)": values for p, values in predictors.items()},
            **{f"error with 10 evaluations, {name}": values for name, values in at_ten.items()},
        },
        notes="B(h) = e^h - 1. The orders are those of the method without its lower-order start and end.",
    )
