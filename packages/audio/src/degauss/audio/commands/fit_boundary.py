"""`degauss-audio fit-boundary`: where an acoustic model's shallow diffusion should start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_range
from degauss.core.options import progress

if TYPE_CHECKING:
    from degauss.audio.boundary import Boundary


@dataclass(frozen=True, kw_only=True)
class FitBoundary:
    """Find the step K that shallow diffusion starts at, by three rules, and keep it in the checkpoint.

    Trains a small classifier that tells recordings from the auxiliary decoder's mels in noise, compares their
    divergence with that of pure noise, and tries shallow diffusion from each K on recordings kept out of the training.
    """

    checkpoint: Positional[Path]
    """An acoustic model, written by 'train'; K, the curves and the classifier are added to it."""
    dataset: Positional[Path]
    """A folder that 'prepare' wrote, best the one the model was trained on or more of the same voices."""
    steps: int = 1000
    """Training steps of the classifier."""
    held_out: int = 16
    """Recordings that the rules are asked about; the classifier is trained on the others."""
    rule: Literal["margin", "kl", "sweep"] = "margin"
    """Whose K is used: the classifier's margin (the paper's), the divergence (its easier trick) or the sweep's best."""
    every: int = 10
    """The sweep tries K = 0, EVERY, 2 EVERY, ..., T."""
    utterances: int = 8
    """Held-out recordings that the sweep draws."""
    draws: int = 2
    """Samples of each recording and K in the sweep, 2 at least."""
    evaluations: int = 25
    """Network evaluations of the sweep's runs from t = 1; shorter ones take their share."""
    solver: str = "dpmpp"
    """The sweep's solver."""
    out: Path | None = None
    """Draw the margin and the sweep against K (.png); CHECKPOINT-boundary.png unless given."""
    seed: int = 0
    """Everything random follows from it."""

    def run(self) -> None:
        from tempfile import TemporaryDirectory

        from degauss.audio.acoustic import AcousticModel
        from degauss.audio.acoustic_data import read_corpus
        from degauss.audio.boundary_fitting import Fitted, Sweeping, ask_rules, pairs_of, save_boundary
        from degauss.audio.boundary_net import fit_classifier, recipe
        from degauss.audio.boundary_plots import boundary_picture
        from degauss.core.solvers import solver_of

        picture = self._picture()
        check_range("held_out", self.held_out, 1)
        sweeping = Sweeping(self.every, self.utterances, self.draws, self.evaluations, solver_of(self.solver))
        model = AcousticModel.load(self.checkpoint)
        with progress("reading recordings") as report:
            corpus = read_corpus(self.dataset, model.config.mel, report)
        seen, held = corpus.split(self.held_out, self.seed)
        with TemporaryDirectory() as folder:
            settings = recipe(Path(folder), steps=self.steps, seed=self.seed)
            pairs, _ = pairs_of(model, seen)
            classifier = fit_classifier(pairs, model.schedule, settings, steps=model.config.steps)
        with progress("sweeping K") as report:
            boundary = ask_rules(model, classifier, held, sweeping, rule=self.rule, seed=self.seed, report=report)
        save_boundary(self.checkpoint, Fitted(boundary, classifier))
        boundary_picture(
            picture, boundary, f"{self.checkpoint.name}: start at step {boundary.step} of {boundary.steps}"
        )
        _print_table(boundary)
        print(f"wrote K = {boundary.step} of {boundary.steps} to {self.checkpoint}, and {picture}")

    def _picture(self) -> Path:
        """Where the picture goes; `InputError` for a name that is none."""
        checkpoint = self.checkpoint.resolve()
        picture = checkpoint.with_name(f"{checkpoint.name}-boundary.png") if self.out is None else self.out
        if picture.suffix.lower() != ".png" or picture.is_dir():
            raise InputError(f"{picture}: expected a name that ends in .png for the picture.")
        # A file inside would be taken for a part of the model.
        if picture.resolve().is_relative_to(checkpoint):
            raise InputError(f"{picture}: lies inside the checkpoint; expected another folder for the picture.")
        return picture


def _print_table(boundary: Boundary) -> None:
    """The three rules, what they measured, and the one in use."""
    from rich.console import Console
    from rich.table import Table

    margin, kl, sweep = boundary.margin, boundary.kl, boundary.sweep
    scores = dict(zip(sweep.candidates, sweep.scores, strict=True))
    table = Table("rule", "K", "of utterances", "found", title=f"boundary of {boundary.steps} steps")
    rows = {
        "margin": (margin.step, _span(margin.each), f"margin {margin.curve[max(margin.step, 1) - 1]:.2f} there"),
        "kl": (kl.step, _span(kl.each), f"{kl.distance:.4f} apart, {kl.allowed:.4f} nats allowed"),
        "sweep": (
            sweep.step,
            "",
            f"score {scores[sweep.step]:.4f}; at K = 0 {scores[0]:.4f}, at T {scores[boundary.steps]:.4f}",
        ),
    }
    for rule, (step, each, found) in rows.items():
        table.add_row(f"{rule} (in use)" if rule == boundary.rule else rule, str(step), each, found)
    Console().print(table)


def _span(each: tuple[int, ...]) -> str:
    return f"{min(each)} to {max(each)}"
