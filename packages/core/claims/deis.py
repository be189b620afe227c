"""DEIS: Adams-Bashforth weights computed for the grid that is used."""

from __future__ import annotations

from collections.abc import Sequence

from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim, deis, plms
from degauss.core.gaussian.exponential import noise_table

from ._problem import error, fine_start, full_order, log_grid, median, order, verdict

CLAIM = Claim(
    paper=("Zhang and Chen 2023, Fast Sampling of Diffusion Models with Exponential Integrator (section 3, table 1)"),
    statement=(
        "Extrapolating the noise with the polynomial through its last values, with weights for the steps "
        "actually taken, gives methods of higher order than DDIM, and better results with few evaluations."
    ),
    expected=(
        "(a) rho-AB with 2, 3 and 4 values (a polynomial in sigma/alpha) measure at least 1.85, 2.85 and "
        "3.85 on a grid uniform in log-SNR; (b) at 10 evaluations order 3 has a smaller error than DDIM for "
        "every seed. Control: PLMS-4, which has the weights of a constant step, must measure below 2.5 on "
        "that grid."
    ),
)

ORDERS = (2, 3, 4)


def run(seeds: Sequence[int]) -> Result:
    measured = {
        p: [order(full_order(noise_table, order=p, axis="ratio"), seed, 320, 640, fine_start) for seed in seeds]
        for p in ORDERS
    }
    control = [order(plms(4), seed, 160, 320) for seed in seeds]
    at_ten = {
        name: [error(solver, seed, log_grid(10)) for seed in seeds]
        for name, solver in {"DEIS-3": deis(3), "DDIM": ddim(), "PLMS-4": plms(4)}.items()
    }
    better = all(a < b for a, b in zip(at_ten["DEIS-3"], at_ten["DDIM"], strict=True))
    return Result(
        verdict([*(median(measured[p]) >= p - 0.15 for p in ORDERS), better], [median(control) < 2.5]),
        {
            **{f"order, DEIS-{p}": values for p, values in measured.items()},
            "order, PLMS-4 (control)": control,
            **{f"error with 10 evaluations, {name}": values for name, values in at_ten.items()},
        },
        notes=(
            "Orders are from 320 to 640 steps: a polynomial in sigma/alpha gets to its order later on "
            "this grid than one in log-SNR. With ten large steps PLMS-4 does better than DEIS-3."
        ),
    )
