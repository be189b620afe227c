"""The verbs of `degauss`: what the machine offers, which domains there are, the claims, and solvers compared."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from degauss.core import doctor
from degauss.core.claims import Record, claims_page, find_claims, run_claim, source_tree
from degauss.core.errors import InputError, check_option, check_range

if TYPE_CHECKING:
    from rich.table import Table

    from degauss.core.compare import Candidate, Outcome, Problem


@dataclass(frozen=True)
class Doctor:
    """Say what this machine offers: Python, torch, devices, threads, domains, data."""

    def run(self) -> None:
        for subject, finding in doctor.facts():
            print(f"{subject:<14}{finding}")


@dataclass(frozen=True)
class Domains:
    """List the domain packages that are installed, with their verbs."""

    def run(self) -> None:
        for program in doctor.installed_domains().values():
            print(f"{program.name:<20}{program.summary}")
            print(f"{'':<20}{', '.join(program.verbs) or 'no method yet'}")


@dataclass(frozen=True)
class ClaimsList:
    """List the claims and their verdicts, as last run."""

    def run(self) -> None:
        for claim in find_claims(source_tree()):
            record = claim.record()
            if record is None:
                verdict = "not run"
            elif record.source_sha256 != claim.sha256():
                verdict = f"{record.verdict} (stale: the claim has changed since)"
            else:
                verdict = record.verdict
            print(f"{claim.package:<12}{claim.name:<32}{verdict}")


@dataclass(frozen=True)
class ClaimsRun:
    """Run claims and write what came out beside them."""

    names: Positional[tuple[str, ...]] = ()
    """The claims to run; all of them unless named."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The seeds to run each claim with."""

    def run(self) -> None:
        if not self.seeds:
            raise InputError("--seeds must name at least one seed.")
        for claim in find_claims(source_tree(), self.names):
            print(f"{claim.name}: ", end="", flush=True)
            record = run_claim(claim, self.seeds)
            print(f"{record.verdict} ({record.seconds:.0f} s)")
            for name, figure in record.figures.items():
                print(f"    {name}: {figure}")


@dataclass(frozen=True)
class ClaimsTable:
    """Write the text of CLAIMS.md, made from the records beside the claims."""

    output: Path | None = None
    """The file to write; standard output unless given."""

    def run(self) -> None:
        page = claims_page(recorded(source_tree()))
        if self.output is None:
            sys.stdout.write(page)
            return
        from degauss.core.files import atomic_path

        with atomic_path(self.output) as part:
            part.write_text(page, encoding="utf-8")


@dataclass(frozen=True)
class ClaimsGuide:
    """Write the page on choosing a solver, a schedule and a guidance, with its plots, from the records."""

    output: Path = Path("docs")
    """The folder for `choosing.md` and its plots."""

    def run(self) -> None:
        from degauss.core.choosing import write_guide

        write_guide(self.output, recorded(source_tree()))


def recorded(root: Path) -> list[Record]:
    """The records of all claims under `root` that have been run."""
    return [record for claim in find_claims(root) if (record := claim.record()) is not None]


@dataclass(frozen=True)
class Compare:
    """Draw error against evaluations of solvers on a denoiser, as a plot and a table.

    The error is the median over samples of the distance to the exact flow from the same noise.
    """

    denoiser: str = "overlapping"
    """`gaussian`, `overlapping` or `separated` (closed forms), or `package.module:function`, a function without
    arguments that returns a `degauss.core.compare.Problem`."""
    solvers: tuple[str, ...] = ("ddim", "heun", "2m", "3m", "unipc-2", "unipc-3")
    """The solvers, by name, or the JSON files that `degauss calibrate` wrote."""
    evaluations: tuple[int, ...] = (5, 7, 10, 15, 20, 40, 80)
    """The numbers of evaluations to measure at."""
    samples: int = 64
    """How many samples the median is taken over."""
    seed: int = 0
    """The noise they start from."""
    output: Path = Path("out/compare")
    """A folder for `errors.csv` and `errors.png`."""

    def run(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        from degauss.core.compare import compare, write_csv
        from degauss.core.plots import error_curves

        check_range("--samples", self.samples, 1)
        for budget in self.evaluations:
            check_range("--evaluations", budget, 1)
        problem = load_problem(self.denoiser)
        candidates = load_candidates(self.solvers, problem)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("measuring", total=len(candidates) * len(self.evaluations))
            outcomes = compare(
                problem,
                candidates,
                self.evaluations,
                seed=self.seed,
                samples=self.samples,
                report=lambda _: progress.advance(bar),
            )
        Console().print(error_table(outcomes, self.evaluations))
        self.output.mkdir(parents=True, exist_ok=True)
        write_csv(self.output / "errors.csv", outcomes)
        error_curves(self.output / "errors.png", outcomes, f"Error against evaluations: {self.denoiser}")
        print(f"wrote {self.output / 'errors.csv'} and {self.output / 'errors.png'}")


def load_problem(name: str) -> Problem:
    """A closed form by its name, or what a user's `package.module:function` returns.

    Raises:
        InputError: there is no such name, module or function, or it returns something else.
    """
    import importlib

    from degauss.core.compare import PROBLEMS, Problem

    module, colon, function = name.partition(":")
    if not colon:
        return PROBLEMS[check_option("--denoiser", name, PROBLEMS)]()
    try:
        problem = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise InputError(f"--denoiser {name}: it cannot be imported ({error}).") from error
    if not isinstance(problem, Problem):
        raise InputError(f"--denoiser {name}: it must return a compare.Problem, but returned {type(problem).__name__}.")
    return problem


def load_candidates(names: Sequence[str], problem: Problem) -> list[Candidate]:
    """Solvers by their names, or by the files of calibrated ones.

    Raises:
        InputError: there is no solver of a name given, or a file was calibrated for another model.
    """
    from degauss.core.calibrate import load
    from degauss.core.compare import solvers

    known = solvers()
    return [
        load(name, problem.denoiser, problem.schedule).candidate(Path(name).stem)
        if name.endswith(".json")
        else known[check_option("--solvers", name, known)]
        for name in names
    ]


def error_table(outcomes: Sequence[Outcome], budgets: Sequence[int]) -> Table:
    """A row for each solver, a column for each number of evaluations allowed."""
    from rich.box import SIMPLE
    from rich.table import Table

    title = "median error (data units) at so many evaluations"
    table = Table("solver", *(str(budget) for budget in budgets), title=title, box=SIMPLE)
    for name in dict.fromkeys(outcome.name for outcome in outcomes):
        errors = {outcome.budget: f"{outcome.error:.2g}" for outcome in outcomes if outcome.name == name}
        table.add_row(name, *(errors.get(budget, "") for budget in budgets))
    return table


@dataclass(frozen=True)
class Calibrate:
    """Fit a solver to a model for a number of evaluations, and keep it as a small JSON file.

    The report compares it, on noise that the fit has not seen, with solvers that need no fit.
    """

    denoiser: str = "overlapping"
    """As in `degauss compare`: a closed form, or `package.module:function`."""
    method: str = "dc"
    """`grid` (times of UniPC-2), `dc` (DC-Solver), `olss` (least squares), `v3` (DPM-Solver-v3) or `plan` (S^3)."""
    evaluations: int = 10
    """How often the solver may ask the denoiser."""
    samples: int = 16
    """How many noises to fit on; the report is on four times as many others."""
    seed: int = 0
    """The noise of the fit."""
    output: Path = Path("out/solver.json")
    """The file to write."""

    def run(self) -> None:
        from degauss.core.calibrate import calibrate, check_method

        method = check_method(self.method)
        check_range("--evaluations", self.evaluations, 2)
        check_range("--samples", self.samples, 2)
        problem = load_problem(self.denoiser)
        made = calibrate(
            problem.denoiser,
            problem.schedule,
            problem.clean(512),
            self.evaluations,
            method=method,
            span=problem.span,
            samples=self.samples,
            seed=self.seed,
        )
        self.output.parent.mkdir(parents=True, exist_ok=True)
        made.save(self.output)
        report = made.report
        print(f"error {report.error:.3g} on {report.samples} held-out samples, {report.fitted:.3g} on those of the fit")
        for name, error in report.plain.items():
            print(f"    {name:<10}{error:.3g}")
        print(f"wrote {self.output}")


@dataclass(frozen=True)
class Choose:
    """Try the plain and the calibrated solvers on a model, and say which won and by how much."""

    denoiser: str = "overlapping"
    """As in `degauss compare`: a closed form, or `package.module:function`."""
    evaluations: int = 10
    """How often the solver may ask the denoiser."""
    methods: tuple[str, ...] = ("grid", "dc", "olss", "v3")
    """What to calibrate, see `degauss calibrate`; also `plan`, which takes longer."""
    samples: int = 16
    """How many noises to fit on; all are judged on four times as many others."""
    seed: int = 0
    """The noise of the fits."""
    output: Path | None = None
    """A file for the winner, if it was calibrated; none is written unless given."""

    def run(self) -> None:
        from degauss.core.calibrate import check_method, choose

        check_range("--evaluations", self.evaluations, 2)
        check_range("--samples", self.samples, 2)
        problem = load_problem(self.denoiser)
        choice = choose(
            problem.denoiser,
            problem.schedule,
            problem.clean(512),
            self.evaluations,
            methods=[check_method(name) for name in self.methods],
            span=problem.span,
            samples=self.samples,
            seed=self.seed,
            report=lambda name: print(f"trying {name}", file=sys.stderr),
        )
        for outcome in choice.ranking:
            print(f"{outcome.name:<10}{outcome.error:.3g}")
        print(choice.says())
        winner = choice.calibrated.get(choice.winner.name)
        if self.output is not None and winner is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            winner.save(self.output)
            print(f"wrote {self.output}")
