"""The page "which solver, which schedule, which guidance", made from the records of the claims.

Nothing on the page is written by hand but its questions: tables and plots are the figures of the claims that compare
(their figures are named "problem, N evaluations, candidate"), every other line is a claim's statement and verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from degauss.core.claims import Record
from degauss.core.errors import InputError


@dataclass(frozen=True)
class Section:
    """A question: ``compared``, claims whose figures are shown whole, and ``told``, claims of which the verdict is."""

    title: str
    text: str
    compared: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


SECTIONS = (
    Section(
        "Which solver",
        "The median error over samples against the exact flow, in the units of the data, at a number of evaluations "
        "of the denoiser, and its geometric mean over the problems; the best that needs no fit is bold, and so is the "
        "best of those fitted to the model with `degauss calibrate` (named so). On a model of your own: `degauss "
        "compare` and `degauss choose`.",
        ("solvers_compared",),
        (
            "ddim",
            "dpm_solver",
            "dpm_solver_pp",
            "unipc",
            "deis",
            "pndm",
            "momentum",
            "evodiff",
            "edm",
            "unified_sampling",
            "dpm_solver_v3",
            "dc_solver",
            "olss",
            "analytic_first_step",
            "optimal_boundary",
            "dpm_ot",
            "restart",
            "keyed_noise",
        ),
    ),
    Section(
        "Which schedule, which grid",
        "The same error for UniPC-2 and DDIM on different grids of times.",
        ("grids_compared",),
        (
            "zero_terminal_snr",
            "one_more_step",
            "rectified_flow",
            "rectified_diffusion",
            "pfgm_plus_plus",
            "stochastic_interpolants",
        ),
    ),
    Section(
        "From a degraded observation to a clean one",
        "Processes whose far end is an observation, not noise.",
        told=("mean_reverting_solver", "ouve", "brownian_bridge", "resshift", "rddm"),
    ),
    Section(
        "Which guidance",
        "Guidance is a denoiser made of denoisers, so all of it works with every solver above.",
        told=(
            "classifier_free_guidance",
            "guidance_rescale",
            "interval_guidance",
            "adaptive_guidance",
            "autoguidance",
            "weak_to_strong",
            "loss_guidance",
            "superposition",
        ),
    ),
    Section(
        "Which inversion, which likelihood",
        "From data back to the noise that makes it, and how likely the model finds it.",
        told=("edict", "bdia", "belm", "cycle_diffusion", "flow_likelihood", "ito_density"),
    ),
    Section(
        "Fewer steps by training",
        "A student of half the steps, where a model may be trained further.",
        told=("progressive_distillation",),
    ),
    Section(
        "Tokens",
        "Discrete data has samplers of its own, in `degauss.core.jump`.",
        told=("mdlm", "radd"),
    ),
    Section(
        "Rewards",
        "Sequences that score high and stay likely, by search at sampling time: `degauss.core.reward`.",
        told=("discrete_search",),
    ),
)

HEAD = """\
# Which solver, which schedule, which guidance

This page is made by `make guide` from the records of the claims; [CLAIMS.md](../CLAIMS.md) has every figure.
"""

Errors = Mapping[int, Mapping[str, float]]
"""Error of each candidate by its name, by the number of evaluations."""


def guide_page(records: Sequence[Record], sections: Sequence[Section] = SECTIONS) -> str:
    """The text of the page. Raises InputError naming a claim that a section wants and that has not been run."""
    known = {record.name: record for record in records}
    wanted = [name for section in sections for name in (*section.compared, *section.told)]
    for name in wanted:
        if name not in known:
            raise InputError(f"the page needs the claim {name!r}, which has not been run: degauss claims run {name}.")
    return "\n".join([HEAD, *(_section(section, known) for section in sections)])


def _section(section: Section, known: Mapping[str, Record]) -> str:
    parts = [f"## {section.title}\n", section.text, ""]
    for name in section.compared:
        parts += [_in_short(compared(known[name])), ""]
        for problem, errors in compared(known[name]).items():
            parts += [f"![{problem}]({plot_name(name, problem)})", "", _table(problem, errors, known[name].notes), ""]
    if section.told:
        parts += ["| claim | what the paper says | here |", "|---|---|---|"]
        parts += [
            f"| [{name}](../CLAIMS.md#{name}) | {known[name].statement} | **{known[name].verdict}** |"
            for name in section.told
        ]
        parts.append("")
    return "\n".join(parts)


def compared(record: Record) -> dict[str, Errors]:
    """The figures of a comparison by problem, number of evaluations and candidate: medians over the seeds."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name, figure in record.figures.items():
        problem, count, candidate = name.split(", ", 2)
        budget = int(count.removesuffix(" evaluations"))
        found.setdefault(problem, {}).setdefault(budget, {})[candidate] = figure.median
    return dict(found)


FITTED = "calibrated: "
"""How the name of a candidate begins that was fitted to the model."""


def _in_short(problems: Mapping[str, Errors]) -> str:
    """The best candidate for each number of evaluations, of those that need no fit and of the fitted."""
    rows = ["| evaluations | lowest error over all problems | after a fit |", "|---|---|---|"]
    for budget in sorted(set.intersection(*(set(errors) for errors in problems.values()))):
        means = _over_problems([errors[budget] for errors in problems.values()])
        fitted = {name.removeprefix(FITTED): mean for name, mean in means.items() if name.startswith(FITTED)}
        plain = {name: mean for name, mean in means.items() if not name.startswith(FITTED)}
        rows.append(f"| {budget} | {_lowest(plain)} | {_lowest(fitted)} |")
    return "\n".join(rows)


def _over_problems(errors: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The geometric mean of each candidate's error, where all problems have it."""
    shared = [name for name in errors[0] if all(name in each for each in errors)]
    return {name: math.prod(each[name] for each in errors) ** (1 / len(errors)) for name in shared}


def _lowest(errors: Mapping[str, float]) -> str:
    name = min(errors, key=errors.__getitem__, default=None)
    return "" if name is None else f"{name} ({errors[name]:.2g})"


def _table(problem: str, errors: Errors, notes: str) -> str:
    budgets = sorted(errors)
    names = list(dict.fromkeys(name for budget in budgets for name in errors[budget]))
    plain = [name for name in names if not name.startswith(FITTED)]
    fitted = [name for name in names if name.startswith(FITTED)]
    rows = [f"| {problem} | {' | '.join(map(str, budgets))} |", f"|---{'|---' * len(budgets)}|"]
    for group in (plain, fitted):
        lowest = {
            budget: min((errors[budget].get(name, math.inf) for name in group), default=0.0) for budget in budgets
        }
        for name in group:
            cells = [_cell(errors[budget].get(name), lowest[budget]) for budget in budgets]
            rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", notes])


def _cell(error: float | None, lowest: float) -> str:
    if error is None:
        return ""
    return f"**{error:.2g}**" if error == lowest else f"{error:.2g}"


def plot_name(claim: str, problem: str) -> str:
    """The file of a plot beside the page."""
    return f"{claim}-{problem.replace(' ', '-')}.svg"


def write_guide(folder: Path, records: Sequence[Record]) -> None:
    """Write ``choosing.md`` and its plots into a folder."""
    from degauss.core.compare import Outcome
    from degauss.core.files import atomic_path
    from degauss.core.plots import error_curves

    page = guide_page(records)
    folder.mkdir(parents=True, exist_ok=True)
    known = {record.name: record for record in records}
    for section in SECTIONS:
        for name in section.compared:
            for problem, errors in compared(known[name]).items():
                outcomes = [
                    Outcome(candidate, budget, budget, error)
                    for budget, found in errors.items()
                    for candidate, error in found.items()
                ]
                error_curves(folder / plot_name(name, problem), outcomes, f"Error against evaluations: {problem}")
    with atomic_path(folder / "choosing.md") as part:
        part.write_text(page, encoding="utf-8")
