"""`degauss-3d lab`: methods side by side."""

from __future__ import annotations

import csv
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tyro.conf import Positional

from degauss.core.errors import InputError, check_option, check_range
from degauss.core.options import check_directory, device_of, progress
from degauss.threed.commands.run_options import MethodName, RunOptions, ViewOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from degauss.threed.laboratory import Outcome


@dataclass(frozen=True, kw_only=True)
class Lab(RunOptions, ViewOptions):
    """Run several methods of distillation on one word, each until the prior's network was asked equally often.

    Written to OUT are sheet.png, a row for each method: the end from around, and then what the prior wants of the
    front at little, middle and much noise; curve.csv and curve.png, scores against evaluations (an oracle and the
    priors that ship know the truth; else the loss is drawn); methods.csv, a line for each method: scores of the end,
    how much its gradient varies, how much its runs differ; noise.csv and noise.png, the error of the noise that the
    prior predicts in renders of the end against t. --steps sets only how the schedules are stretched; without it they
    fit the budget.
    """

    prompt: Positional[str]
    """A word that the prior knows."""
    methods: tuple[str, ...] = ("sds", "asd", "ism", "tsm")
    """Of sds, asd, vsd, ism, tsm and stable-dreamer. vsd needs a prior with a network; stable-dreamer is sds in two
    stages, best on Gaussians, and spends the budget on both."""
    evaluations: int = 3200
    """Of the prior's network, one for each image it is asked about; each method stops when it has made so many."""
    looks: int = 8
    """How often scores are taken."""
    runs: int = 1
    """Runs of each method, with this seed and those after it; of two or more the table says how much they differ."""
    out: Path = Path("lab")
    """The folder to write."""

    def run(self) -> None:
        from degauss.core.cli import write_resolved_config
        from degauss.core.files import atomic_path
        from degauss.threed.laboratory import compare, noise_errors, steps_within

        self._check()
        device = device_of(self.device)
        source = self.source()
        source.prior.check(self.prompt)
        configs = [self.run_config(self.prompt, method, source) for method in self.methods]  # type: ignore[arg-type]
        if self.steps is None:
            configs = [replace(one, steps=steps_within(one, source, self.evaluations, device)) for one in configs]
        configs = [replace(one, seed=one.seed + number) for one in configs for number in range(self.runs)]
        source = source.about(self.prompt, device)
        with ExitStack() as stack:
            watchers = self.watchers(stack, device)
            report = stack.enter_context(progress("evaluations"))
            whole = self.evaluations * len(configs)

            def move(number: int, spent: int) -> None:
                report(number * self.evaluations + spent, whole)

            outcomes = compare(configs, source, self.evaluations, self.looks, device, move, watchers)
        errors = noise_errors(source, configs[0], outcomes)
        with atomic_path(self.out) as part:
            part.mkdir()
            write_resolved_config(part / "config.toml", self, prior_sha256=source.sha256)
            _write(part, outcomes, errors)
        for outcome in outcomes:
            end = outcome.curve[-1]
            said = "" if math.isnan(end.psnr) else f", PSNR {end.psnr:.1f} dB, IoU {end.iou:.2f}"
            janus = "" if math.isnan(end.janus) else f", Janus rate {end.janus:.2f}"
            run = f"{outcome.method}, seed {outcome.seed}" if self.runs > 1 else outcome.method
            print(f"{run}: {end.step} steps, {end.evaluations} evaluations{said}{janus}")
        print(f"wrote {self.out}")

    def _check(self) -> None:
        check_directory(self.out)
        check_range("evaluations", self.evaluations, 1)
        check_range("looks", self.looks, 1)
        check_range("runs", self.runs, 1)
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise InputError(f"methods must be one or more, all different, but are {', '.join(self.methods)}.")
        for name in self.methods:
            check_option("a method", name, get_args(MethodName))
        ours = {"config.toml", "sheet.png", "curve.csv", "curve.png", "methods.csv", "noise.csv", "noise.png"}
        for file in self.out.iterdir() if self.out.is_dir() else ():
            if file.name not in ours:
                raise InputError(f"{self.out} holds other things than a comparison ({file.name}): name a new folder.")


def _table(path: Path, head: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV; what is not known is left empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(["" if value != value else value for value in row] for row in rows)


def _write(folder: Path, outcomes: Sequence[Outcome], errors: Mapping[str, Sequence[float]]) -> None:
    from degauss.threed.laboratory import TIMES, Point, Summary, summaries
    from degauss.threed.plots import curves, grid, write_picture
    from degauss.threed.watching import with_wanted

    write_picture(folder / "sheet.png", grid([with_wanted(one.around.rgb, one.wanted) for one in outcomes]))
    several = len(outcomes) > len({one.method for one in outcomes})
    _table(
        folder / "curve.csv",
        ("seed", *Point._fields),
        ((one.seed, *point) for one in outcomes for point in one.curve),
    )
    _table(folder / "methods.csv", Summary._fields, summaries(outcomes))
    _table(
        folder / "noise.csv", ("of", *(f"t={time}" for time in TIMES)), ((name, *row) for name, row in errors.items())
    )
    known = not math.isnan(outcomes[0].curve[-1].psnr)
    lines = {
        f"{one.method}, seed {one.seed}" if several else one.method: (
            [at.evaluations for at in one.curve],
            [at.psnr if known else at.loss for at in one.curve],
        )
        for one in outcomes
    }
    label = "PSNR on views held out (dB)" if known else "loss"
    curves(folder / "curve.png", lines, "evaluations of the prior", label, "Methods at equal evaluations")
    noise = {name: (list(TIMES), list(values)) for name, values in errors.items()}
    curves(folder / "noise.png", noise, "t", "mean squared error of the noise", "What the prior hears in renders")
