"""`degauss-audio distill`: ProDiff, an acoustic model whose mels take two evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from degauss.core.options import check_directory, progress


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Make a ProDiff model on the front end of a trained acoustic model: a denoiser of four steps, a student of two.

    Stop it and run it again: it goes on where it stopped. OUT/student/model is a model for 'speak' and 'sing' like any
    other, and so is its teacher, OUT/teacher/model.
    """

    checkpoint: Positional[Path]
    """An acoustic model, written by 'train'; its phones, voices, durations and pitch are kept."""
    dataset: Positional[Path]
    """The folder that it was trained on, written by 'prepare'."""
    out: Path = Path("runs/prodiff")
    """Directory of both runs."""
    teacher_steps: int = 6000
    """Training steps of the teacher."""
    steps: int = 3000
    """Training steps of the student."""
    batch: int = 16
    """Utterances a step."""
    lr: float = 1e-3
    """Peak learning rate of the teacher; the student's is half of it."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""

    def run(self) -> None:
        from degauss.audio.acoustic import AcousticModel
        from degauss.audio.acoustic_data import read_corpus
        from degauss.audio.prodiff import distil, fit_teacher, recipe
        from degauss.core.cli import write_resolved_config

        check_directory(self.out)
        first, second = (
            recipe(
                self.out / name,
                steps=steps,
                batch=self.batch,
                lr=lr,
                seed=self.seed,
                device=self.device,
                tracker="tensorboard",
            )
            for name, steps, lr in (("teacher", self.teacher_steps, self.lr), ("student", self.steps, self.lr / 2))
        )
        model = AcousticModel.load(self.checkpoint)
        with progress("reading recordings") as report:
            corpus = read_corpus(self.dataset, model.config.mel, report)
        for item in corpus.items:
            model.phone_numbers(item.phones)
            model.voice(item.voice)
        write_resolved_config(self.out / "distill.toml", self)
        teacher = fit_teacher(model, corpus, first)
        distil(teacher, corpus, second)
        print(f"wrote {self.out / 'student' / 'model'}: two evaluations a mel")
