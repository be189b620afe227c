"""The solvers of the core by the names that ``--solver`` takes in every command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from degauss.core.errors import check_option

if TYPE_CHECKING:
    from degauss.core.sampling import Solver

SolverName = Literal[
    "ancestral", "ddim", "dpmpp", "dpmpp-3", "dpmpp-sde", "unipc", "unipc-3", "deis", "plms", "heun", "singlestep"
]
"""Ancestral sampling; DDIM; multistep DPM-Solver++ of order 2, of order 3 and as an SDE; UniPC of order 2 and 3; DEIS;
PLMS; Heun (two evaluations a step); DPM-Solver-2 in single steps (two).
"""

SOLVERS: tuple[SolverName, ...] = get_args(SolverName)


def solver_of(name: str) -> Solver:
    """The solver of a name; `InputError` for one there is not.

    ``deis``, ``plms``, ``heun`` and ``singlestep`` start only where alpha > 0.
    """
    from degauss.core.gaussian import Heun, Singlestep, ddim, deis, dpmpp, plms, unipc

    solvers: dict[SolverName, Solver] = {
        "ancestral": ddim(eta=1.0),
        "ddim": ddim(),
        "dpmpp": dpmpp(2),
        "dpmpp-3": dpmpp(3),
        "dpmpp-sde": dpmpp(2, eta=1.0),
        "unipc": unipc(2),
        "unipc-3": unipc(3),
        "deis": deis(3),
        "plms": plms(4),
        "heun": Heun,
        "singlestep": Singlestep,
    }
    check_option("solver", name, solvers)
    return solvers[name]  # pyright: ignore[reportArgumentType]
