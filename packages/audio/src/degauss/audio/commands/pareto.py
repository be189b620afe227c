"""`degauss-audio pareto enhance` and `pareto speak`: quality against evaluations and real-time factor."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from degauss.audio.commands.enhancer_options import EnhancerSolver, enhancer_solver
from degauss.core.errors import InputError, check_option, check_range
from degauss.core.options import check_place, progress
from degauss.core.solvers import SolverName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from degauss.audio.pareto import System
    from degauss.audio.transcription import Entry
    from degauss.audio.waves import Wave


@dataclass(frozen=True, kw_only=True)
class ParetoOptions:
    """What is tried, and how it is judged."""

    solvers: tuple[EnhancerSolver, ...] = ("ddim", "dpmpp", "unipc")
    """Solvers to try."""
    steps: tuple[int, ...] = (2, 4, 8, 16)
    """Steps to try with each."""
    items: int = 20
    """Recordings to take, the first by name; 0 for all."""
    seed: int = 0
    """Everything random follows from it."""
    out: Path = Path("pareto")
    """Where the report goes, without suffix: OUT.csv, OUT.json and OUT.png."""

    def stem(self) -> Path:
        """Where to write, after a look at the options."""
        if self.out.suffix:
            raise InputError(f"{self.out}: three files of that name are written; expected a name without suffix.")
        if not self.solvers or not self.steps:
            raise InputError("there is nothing to try; expected at least one solver and one number of steps.")
        for steps in self.steps:
            check_range("steps", steps, 1)
        check_range("items", self.items, 0)
        check_place(self.out)
        return self.out

    def compare(
        self,
        system: System[Any],
        items: Sequence[Any],
        references: Sequence[Wave],
        measures: tuple[str, ...],
        checkpoint: Path,
    ) -> None:
        """Run all settings over the items and write the report; the first measure is the one that is drawn."""
        from degauss.audio.metrics_report import BY_NAME
        from degauss.audio.pareto import Setting, front, measure, runner, scorer, write_points
        from degauss.audio.pareto_plot import pareto_plot
        from degauss.core.cli import provenance
        from degauss.core.files import fingerprint

        if not measures:
            raise InputError("there is nothing to measure; expected at least one measure.")
        for name in measures:
            check_option("measures", name, BY_NAME)
        stem, quality = self.stem(), measures[0]
        settings = list(dict.fromkeys(Setting(solver, steps) for solver in self.solvers for steps in self.steps))
        with progress("trying solvers") as report:
            points = measure(runner(system, items), settings, scorer(references, measures), report)
        facts = {
            "checkpoint": str(checkpoint),
            "checkpoint_sha256": fingerprint(checkpoint),
            "items": len(items),
            "seed": self.seed,
            **provenance(),
        }
        write_points(stem, points, quality, facts)
        pareto_plot(stem.with_suffix(".png"), points, quality, f"{checkpoint.name}: {len(items)} recordings")
        for point in front(points, "evaluations", quality):
            found = ", ".join(f"{name} {value:.3f}" for name, value in point.quality.items())
            print(f"{point.name}: {point.evaluations:g} evaluations, real-time factor {point.rtf:.3f}, {found}")
        print(f"wrote {stem}.csv, {stem}.json and {stem}.png; listed are those that no other beats")

    def first(self, found: Sequence[Any]) -> list[Any]:
        """As many as are asked for."""
        return list(islice(found, self.items or None))


@dataclass(frozen=True, kw_only=True)
class ParetoEnhance(ParetoOptions):
    """Try solvers and steps of an enhancement model on noisy recordings with clean references."""

    solvers: tuple[EnhancerSolver, ...] = ("ddim", "dpmpp", "unipc")
    """Solvers to try; pc is the published predictor-corrector (two evaluations a step)."""
    checkpoint: Positional[Path]
    """A model written by 'train-enhancer', of SGMSE+ or StoRM."""
    noisy: Positional[Path]
    """Noisy recordings: a file, or a folder."""
    clean: Positional[Path]
    """The same without noise: a file, or a folder with a file of the same name for each."""
    measures: tuple[str, ...] = ("si_sdr", "estoi", "pesq_nb")
    """What is measured, as 'metrics' calls it; the first is drawn."""
    start: float = 1.0
    """Time to start from: 1 for noise alone, less to stay nearer to the first estimate."""

    def run(self) -> None:
        from degauss.audio.enhancement import Enhancer, Sampling, enhance, evaluations
        from degauss.audio.metrics_report import pairs
        from degauss.audio.waves import Wave, mono, read, resample

        self.stem()
        found = self.first(pairs(self.noisy, self.clean))
        model = Enhancer.load(self.checkpoint)
        if model.config.score is None:
            raise InputError(
                f"{self.checkpoint}: is a predictive model, which has no solver; expected SGMSE+ or StoRM."
            )
        rate = model.config.rate

        def one(path: Path) -> Wave:
            wave = read(path)
            return resample(Wave(mono(wave)[None], wave.rate), rate)

        def system(solver: str, steps: int, item: tuple[int, Tensor]) -> tuple[Wave, int]:
            number, noisy = item
            sampling = Sampling(enhancer_solver(solver), steps, self.start, seed=self.seed)
            made = enhance(noisy, model, sampling, number)
            return Wave(made[None].float(), rate), evaluations(model.config, sampling)

        noisy = [one(item.estimate).samples[0] for item in found]
        clean = [one(item.reference) for item in found if item.reference is not None]
        self.compare(system, [*enumerate(noisy)], clean, self.measures, self.checkpoint)


@dataclass(frozen=True, kw_only=True)
class ParetoSpeak(ParetoOptions):
    """Try solvers and steps of an acoustic model on the recordings of a prepared folder, with their own durations."""

    solvers: tuple[SolverName, ...] = ("ddim", "dpmpp", "unipc")
    """Solvers to try."""
    checkpoint: Positional[Path]
    """A model written by 'train'."""
    folder: Positional[Path]
    """A folder that 'prepare' wrote: transcriptions.csv and wavs."""
    measures: tuple[str, ...] = ("mcd", "delta_variance", "f0_rmse")
    """What is measured, as 'metrics' calls it; the first is drawn."""
    vocoder: str = "world"
    """neural, world, griffin-lim, or the folder of a trained one."""
    boundary: float | None = None
    """Time where shallow diffusion starts, 0 to 1; what the checkpoint says unless given."""

    def run(self) -> None:
        from degauss.audio.acoustic import AcousticModel
        from degauss.audio.acoustic_data import WAVES, read_entries
        from degauss.audio.synthesis import Sampling, render
        from degauss.audio.vocoders import open_vocoder
        from degauss.audio.waves import Wave, mono, read, resample

        self.stem()
        if self.boundary is not None:
            check_range("boundary", self.boundary, 0, 1)
        entries = self.first(read_entries(self.folder))
        model = AcousticModel.load(self.checkpoint)
        vocoder = open_vocoder(self.vocoder, model.config.mel)
        rate = model.config.mel.rate
        for entry in entries:
            model.phone_numbers(entry.segment.phones)
            model.voice(entry.voice)

        def system(solver: str, steps: int, item: tuple[int, Entry]) -> tuple[Wave, int]:
            number, entry = item
            sampling = Sampling(solver, steps, self.boundary, self.seed)
            made = render(model, entry.segment, vocoder, sampling, voice=entry.voice, sample=number)
            return made.wave, made.report["evaluations"]

        references: list[Wave] = []
        for entry in entries:
            wave = read(self.folder / WAVES / f"{entry.name}.wav")
            references.append(resample(Wave(mono(wave)[None], wave.rate), rate))
        self.compare(system, [*enumerate(entries)], references, self.measures, self.checkpoint)
