"""ProDiff: a student of two evaluations that keeps what its teacher of four makes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from degauss.audio.acoustic import AcousticModel
from degauss.audio.prodiff import STUDENT_STEPS, TEACHER_STEPS, distil, fit_teacher, recipe, sample_mels
from degauss.audio.shallow import at_time, draw
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim

from ._acoustic import STEPS, TESTED, TRAINING, Measured, corpus, measured, run_folder, trained

STUDENT_TRAINING = STEPS // 2

CLAIM = Claim(
    paper=(
        "Huang et al. 2022, ProDiff: Progressive Fast Diffusion Model for High-Quality Text-to-Speech (ACM MM; "
        "sections 4.2 to 4.4, table 1)"
    ),
    statement=(
        "A denoiser that predicts clean mels needs 4 steps, and by progressive distillation 2, for mels as sharp as "
        "those of hundreds of steps."
    ),
    expected=(
        "On synthetic formant speech, posterior sampling, medians over seeds: (a) the student's mel-cepstral distance "
        "in 2 steps is at most 0.2 dB above its teacher's in 4; (b) its delta variance is no less than its teacher's; "
        "(c) it takes at least 25 times fewer evaluations than 100 ancestral steps, and its delta-variance ratio is at "
        "least 0.8 of theirs. Control: its teacher in 2 steps, undistilled, has a smaller delta variance."
    ),
)


def run(seeds: Sequence[int]) -> Result:
    """Draw 24 test utterances with each model of each seed."""
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    for seed in seeds:
        for name, (distance, liveliness) in one(seed).items():
            found.setdefault(f"distance, {name}", []).append(distance)
            found.setdefault(f"delta variance, {name}", []).append(liveliness)
    middle = {name: median(values) for name, values in found.items()}
    student, teacher, naive, full = (
        middle[f"delta variance, {name}"]
        for name in ("student, 2 steps", "teacher, 4 steps", "teacher, 2 steps (control)", "100 steps")
    )
    parts = [
        middle["distance, student, 2 steps"] <= middle["distance, teacher, 4 steps"] + 0.2,
        student >= teacher,
        100 / STUDENT_STEPS >= 25 and student >= 0.8 * full,
    ]
    return Result(
        "holds" if all(parts) and naive < student else "holds partly" if any(parts) else "does not hold",
        found,
        notes="Distances are mel-cepstral, of an orthonormal cosine transform, in dB; "
        "delta variances are ratios to the recordings'. All models have the "
        "front end of the one with 100 steps.",
    )


def one(seed: int) -> dict[str, Measured]:
    """The measures of one seed by the way of sampling."""
    base = trained(seed)
    teacher, student = taught(seed, base)
    items = corpus(seed, 2, TESTED).items

    def ancestral(condition: Tensor, number: int) -> Tensor:
        return draw(base, condition, at_time(1.0), solver=ddim(eta=1.0), seed=seed, samples=[number]).mel

    def few(model: AcousticModel, steps: int) -> Measured:
        return measured(
            model,
            items,
            lambda condition, number: sample_mels(model, condition, steps, seed=seed, samples=[number]).mel,
        )

    return {
        "auxiliary": measured(base, items, lambda condition, number: base.auxiliary(condition)),
        "100 steps": measured(base, items, ancestral),
        "teacher, 4 steps": few(teacher, TEACHER_STEPS),
        "teacher, 2 steps (control)": few(teacher, STUDENT_STEPS),
        "student, 2 steps": few(student, STUDENT_STEPS),
    }


def taught(seed: int, base: AcousticModel) -> tuple[AcousticModel, AcousticModel]:
    """Teacher and student of a seed, or what an earlier run left of them."""
    out = run_folder(seed)
    data = corpus(seed, 0, TRAINING)
    if not (out / "teacher" / "model").exists():
        fit_teacher(base, data, recipe(out / "teacher", steps=STEPS, lr=2e-3, seed=seed, device="cpu"))
    teacher = AcousticModel.load(out / "teacher" / "model")
    if not (out / "student" / "model").exists():
        distil(teacher, data, recipe(out / "student", steps=STUDENT_TRAINING, lr=1e-3, seed=seed, device="cpu"))
    return teacher, AcousticModel.load(out / "student" / "model")
