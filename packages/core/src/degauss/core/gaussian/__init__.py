"""Solvers for Gaussian paths. Each is a function or class that waits for ``(denoiser, schedule)``."""

from degauss.core.gaussian.exponential import ddim, deis, dpm, dpmpp
from degauss.core.gaussian.onestep import AncestralTwo, Heun, Singlestep
from degauss.core.gaussian.plms import plms
from degauss.core.gaussian.table import Row, Table, TableKernel, TableSolver, table_solver
from degauss.core.gaussian.unipc import unipc

__all__ = [
    "AncestralTwo",
    "Heun",
    "Row",
    "Singlestep",
    "Table",
    "TableKernel",
    "TableSolver",
    "ddim",
    "deis",
    "dpm",
    "dpmpp",
    "plms",
    "table_solver",
    "unipc",
]
