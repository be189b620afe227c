"""Solvers for Gaussian paths. Each is a function or class that waits for ``(denoiser, schedule)``."""

from degauss.core.gaussian.boundary import OptimalStart, optimal_start
from degauss.core.gaussian.dc import Compensation, RatioPolynomial, dc, fit_polynomial, fit_ratios
from degauss.core.gaussian.density import FlowDensity, Hutchinson, exact_trace, log_density, sample_with_density
from degauss.core.gaussian.dpm_ot import OptimalTransportStart, fit_transport
from degauss.core.gaussian.dpm_v3 import dpm_v3
from degauss.core.gaussian.evodiff import EVODiff
from degauss.core.gaussian.exponential import ddim, deis, dpm, dpmpp
from degauss.core.gaussian.first_step import AnalyticFirstStep
from degauss.core.gaussian.momentum import dpmpp_hb, ghvb, ghvb_variable, hb
from degauss.core.gaussian.olss import LeastSquares, fit_olss, jump_grid, olss
from degauss.core.gaussian.one_more_step import OneMoreStep, Started, one_more_step_loss
from degauss.core.gaussian.onestep import AncestralTwo, Heun, Singlestep
from degauss.core.gaussian.plms import plms
from degauss.core.gaussian.restart import Interval, Restart
from degauss.core.gaussian.solver_search import search_solver
from degauss.core.gaussian.statistics import ModelStatistics, measure_statistics
from degauss.core.gaussian.table import Row, Table, TableKernel, TableSolver, table_solver
from degauss.core.gaussian.unipc import unipc
from degauss.core.gaussian.usf import Decision, Plan, multistep_plan, usf

__all__ = [
    "AnalyticFirstStep",
    "AncestralTwo",
    "Compensation",
    "Decision",
    "EVODiff",
    "FlowDensity",
    "Heun",
    "Hutchinson",
    "Interval",
    "LeastSquares",
    "ModelStatistics",
    "OneMoreStep",
    "OptimalStart",
    "OptimalTransportStart",
    "Plan",
    "RatioPolynomial",
    "Restart",
    "Row",
    "Singlestep",
    "Started",
    "Table",
    "TableKernel",
    "TableSolver",
    "dc",
    "ddim",
    "deis",
    "dpm",
    "dpm_v3",
    "dpmpp",
    "dpmpp_hb",
    "exact_trace",
    "fit_olss",
    "fit_polynomial",
    "fit_ratios",
    "fit_transport",
    "ghvb",
    "ghvb_variable",
    "hb",
    "jump_grid",
    "log_density",
    "measure_statistics",
    "multistep_plan",
    "olss",
    "one_more_step_loss",
    "optimal_start",
    "plms",
    "sample_with_density",
    "search_solver",
    "table_solver",
    "unipc",
    "usf",
]
