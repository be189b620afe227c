"""`degauss-3d lab`: methods side by side."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from degauss.core.errors import InputError, check_option, check_range
from degauss.core.options import check_directory, device_of, progress
from degauss.threed.commands.run_options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from degauss.threed.laboratory import Outcome

_METHODS = ("sds", "asd", "vsd", "ism", "tsm")


@dataclass(frozen=True, kw_only=True)
class Lab(RunOptions):
    """Run several methods of distillation on one word, each until the prior's network was asked equally often.

    Written to OUT are sheet.png, a row for each method: the end from around, and then what the prior wants of the
    front at little, middle and much noise; curve.csv and curve.png, scores against evaluations (an oracle knows the
    truth; else the loss is drawn); noise.csv and noise.png, the error of the noise that the prior predicts in renders
    of the end against t. --steps sets only how the schedules are stretched; without it they fit the budget.
    """

    prompt: Positional[str]
    """A word that the prior knows."""
    methods: tuple[str, ...] = ("sds", "asd", "ism", "tsm")
    """Of sds, asd, vsd, ism and tsm; vsd needs a prior with a network."""
    evaluations: int = 3200
    """Of the prior's network, one for each image it is asked about; each method stops when it has made so many."""
    looks: int = 8
    """How often scores are taken."""
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
        with progress("evaluations") as report:
            whole = self.evaluations * len(configs)

            def move(name: str, done: int) -> None:
                report(self.methods.index(name) * self.evaluations + done, whole)

            outcomes = compare(configs, source, self.evaluations, self.looks, device, move)
        errors = noise_errors(source, configs[0], outcomes)
        with atomic_path(self.out) as part:
            part.mkdir()
            write_resolved_config(part / "config.toml", self, prior_sha256=source.sha256)
            _write(part, outcomes, errors)
        for outcome in outcomes:
            end = outcome.curve[-1]
            said = "" if math.isnan(end.psnr) else f", PSNR {end.psnr:.1f} dB, IoU {end.iou:.2f}"
            janus = "" if math.isnan(end.janus) else f", Janus rate {end.janus:.2f}"
            print(f"{outcome.method}: {end.step} steps, {end.evaluations} evaluations{said}{janus}")
        print(f"wrote {self.out}")

    def _check(self) -> None:
        check_directory(self.out)
        check_range("evaluations", self.evaluations, 1)
        check_range("looks", self.looks, 1)
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise InputError(f"methods must be one or more, all different, but are {', '.join(self.methods)}.")
        for name in self.methods:
            check_option("a method", name, _METHODS)
        ours = {"config.toml", "sheet.png", "curve.csv", "curve.png", "noise.csv", "noise.png"}
        for file in self.out.iterdir() if self.out.is_dir() else ():
            if file.name not in ours:
                raise InputError(f"{self.out} holds other things than a comparison ({file.name}): name a new folder.")


def _write(folder: Path, outcomes: Sequence[Outcome], errors: Mapping[str, Sequence[float]]) -> None:
    from degauss.threed.laboratory import TIMES, Point
    from degauss.threed.plots import curves, grid, write_picture
    from degauss.threed.watching import with_wanted

    write_picture(folder / "sheet.png", grid([with_wanted(one.around.rgb, one.wanted) for one in outcomes]))
    with (folder / "curve.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(Point._fields)
        table.writerows(["" if value != value else value for value in point] for one in outcomes for point in one.curve)
    with (folder / "noise.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["of", *(f"t={time}" for time in TIMES)])
        table.writerows([name, *values] for name, values in errors.items())
    known = not math.isnan(outcomes[0].curve[-1].psnr)
    lines = {
        one.method: ([at.evaluations for at in one.curve], [at.psnr if known else at.loss for at in one.curve])
        for one in outcomes
    }
    label = "PSNR on views held out (dB)" if known else "loss"
    curves(folder / "curve.png", lines, "evaluations of the prior", label, "Methods at equal evaluations")
    noise = {name: (list(TIMES), list(values)) for name, values in errors.items()}
    curves(folder / "noise.png", noise, "t", "mean squared error of the noise", "What the prior hears in renders")
