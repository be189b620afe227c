r"""ProDiff: a denoiser of mels that needs four evaluations, and a student of it that needs two.

Three things make few steps enough (Huang et al. 2022, "ProDiff: Progressive Fast Diffusion Model for High-Quality
Text-to-Speech", ACM MM):

*It predicts x0*, and is trained at the times it will be sampled at and at no others.

*Its path falls fast.* The published betas of T = 4 are, for j = 1, ..., T + 1,

    beta_j = 1 - exp(-b / n - (B - b) (2 j - 1) / (2 n^2)),    n = T + 1 = 5, b = 0.1, B = 40.

Their products telescope, as sum_{i <= j} (2 i - 1) = j^2: abar_j = exp(-b j / n - (B - b) j^2 / (2 n^2)), which is the
continuous variance-preserving path of linear rate from 0.1 to 40 at the times j / 5,

    abar = 0.441, 0.039, 7e-4, 3e-6   at t = 0.2, 0.4, 0.6, 0.8,

so the four steps are an even grid from 0.8, where nothing is left of the data, to 0, on `LinearVP(0.1, 40)`.

*A student* learns to do in one step what two DDIM steps of it do (`degauss.core.distill`), by the absolute error, with
the front end frozen, and is sampled at t = 0.8, 0.4. Both are sampled by the posterior q(x_u | x_t, x0), which is
ancestral sampling, ``ddim(eta=1.0)``.

The teacher's loss is 0.5 (1 - SSIM) + 0.5 |x0^ - x0|. Here teacher and student are acoustic models like any other:
`denoiser_of` puts a new denoiser on the front end of a trained one, which is frozen for both (in the paper the front
end learns with the teacher). What they are sampled with is what `shallow.draw` does from t = 0.8: alpha is 0.002 there,
and the auxiliary mel as good as absent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from degauss.audio.acoustic import AcousticConfig, AcousticModel
from degauss.audio.acoustic_data import Batches, Corpus
from degauss.audio.acoustic_training import DiffusionStage
from degauss.audio.frontend import Batch, frames_inside
from degauss.audio.shallow import Drawn, at_time, draw
from degauss.audio.ssim import ssim
from degauss.audio.wavenet import WaveNet
from degauss.core.denoiser import expand, x0_prediction
from degauss.core.distill import distillation_loss, unweighted
from degauss.core.errors import InputError
from degauss.core.gaussian import ddim
from degauss.core.noise import Noise
from degauss.core.train import TrainConfig, train

TEACHER_STEPS, STUDENT_STEPS = 4, 2
START = 0.8
_RATES = (0.1, 40.0)

# T of the configuration, in which betas must lie below 1; the times at which the network is asked do not depend on it.
_FINE = 100


def times(steps: int) -> Tensor:
    """The grid of so many steps: even, from `START` to 0, float64 ``[steps + 1]``."""
    return torch.linspace(START, 0, steps + 1, dtype=torch.float64)


def prodiff_config(config: AcousticConfig) -> AcousticConfig:
    """The same sizes, with ProDiff's prediction and path (rescaled at its end, t = 1, where abar was 2e-9)."""
    first, last = _RATES
    return replace(config, prediction="x0", steps=_FINE, beta_first=first / _FINE, beta_last=last / _FINE)


def denoiser_of(model: AcousticModel, seed: int = 0) -> AcousticModel:
    """A model to be taught: the front end and decoder of a trained one, and a new denoiser with ProDiff's path."""
    config = prodiff_config(model.config)
    network = copy.deepcopy(model.network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.wavenet = WaveNet(config.denoiser).to(model.device)
    facts = replace(model.facts, boundary=START, solver="ancestral", steps=TEACHER_STEPS)
    return AcousticModel(config, network, facts)


def sample_mels(
    model: AcousticModel, condition: Tensor, steps: int, *, seed: int = 0, samples: Sequence[int] | None = None
) -> Drawn:
    """A mel for each row of a condition ``[b, hidden, n]`` in so many evaluations, by posterior sampling."""
    return draw(model, condition, at_time(START), solver=ddim(eta=1.0), steps=steps, seed=seed, samples=samples)


# --- losses -------------------------------------------------------------------------------------------------


def teacher_loss(
    model: AcousticModel, scale: Callable[[Tensor], Tensor], stage: nn.Module, batch: Batch, noise: Noise
) -> Tensor:
    """0.5 (1 - SSIM) + 0.5 |x0^ - x0| over frames and bins, ``[b]``, at one of the times the teacher is sampled at."""
    x0 = scale(batch.mel)
    grid = times(TEACHER_STEPS)[:-1].to(x0.device)
    chosen = (noise.uniform(x0.new_empty(len(x0)), draw=0) * len(grid)).long().clamp(max=len(grid) - 1)
    t = grid[chosen]
    alpha, sigma = (expand(coefficient, x0) for coefficient in model.schedule(t))
    found: Tensor = stage(batch, alpha * x0 + sigma * noise.normal(x0, draw=1), t)
    inside = frames_inside(batch.durations, x0.shape[2])
    unlike = 1 - ssim(found, x0, inside)
    return _mean(0.5 * unlike + 0.5 * (found - x0).abs(), inside)


def student_loss(
    teacher: AcousticModel, scale: Callable[[Tensor], Tensor], stage: nn.Module, batch: Batch, noise: Noise
) -> Tensor:
    """The absolute error of the student's mean against what two steps of its teacher ask for, ``[b]``."""
    x0 = scale(batch.mel)
    inside = frames_inside(batch.durations, x0.shape[2])
    with torch.no_grad():
        taught = teacher.denoiser(teacher.condition(batch))
    return distillation_loss(
        x0_prediction(partial(stage, batch), teacher.schedule),
        taught,
        teacher.schedule,
        times(TEACHER_STEPS),
        x0,
        noise,
        weighting=unweighted,
        distance=lambda found, wanted: _mean((found - wanted).abs(), inside),
    )


def _mean(values: Tensor, inside: Tensor) -> Tensor:
    """The mean of each row ``[b, mels, n]`` over its frames ``[b, n]``."""
    return (values.mean(1) * inside).sum(1) / inside.sum(1).clamp(min=1)


# --- training -----------------------------------------------------------------------------------------------


def recipe(
    out: Path,
    *,
    steps: int,
    batch: int = 16,
    lr: float = 1e-3,
    seed: int = 0,
    device: Literal["auto", "cpu"] = "auto",
    tracker: Literal["tensorboard"] | None = None,
) -> TrainConfig:
    """How teacher and student are trained, in the directory ``out``; `InputError` for a value out of its range."""
    return TrainConfig(
        out=out,
        steps=steps,
        batch_size=batch,
        lr=lr,
        warmup=min(100, steps // 10),
        ema=0.99,
        seed=seed,
        save_every=250,
        tracker=tracker,
        device=device,
    )


def fit_teacher(model: AcousticModel, corpus: Corpus, settings: TrainConfig) -> AcousticModel:
    """Teach a denoiser of four steps on the front end of a trained model; writes ``out/model`` and returns it, frozen.

    A run that was stopped goes on; see `degauss.core.train` for what it raises.
    """
    taught = denoiser_of(model, settings.seed)
    return _trained(taught, partial(teacher_loss, taught), corpus, settings)


def distil(teacher: AcousticModel, corpus: Corpus, settings: TrainConfig) -> AcousticModel:
    """A student of two steps, from its teacher's weights; writes ``out/model`` and returns it, frozen, on the CPU.

    Raises `InputError` for a teacher that does not predict x0 on ProDiff's path.
    """
    if prodiff_config(teacher.config) != teacher.config:
        raise InputError("the teacher is no ProDiff model: expected x0 prediction and betas from 0.001 to 0.4.")
    facts = replace(teacher.facts, steps=STUDENT_STEPS)
    student = replace(teacher, network=copy.deepcopy(teacher.network), facts=facts)
    # A frozen teacher would leave its student frozen.
    student.network.wavenet.requires_grad_(True)
    return _trained(student, partial(_beside, teacher), corpus, settings)


def _beside(
    teacher: AcousticModel, scale: Callable[[Tensor], Tensor], stage: nn.Module, batch: Batch, noise: Noise
) -> Tensor:
    # The trainer moves the student; nothing is moved where the teacher is there already.
    teacher.network.to(batch.mel.device)
    return student_loss(teacher, scale, stage, batch, noise)


def _trained(model: AcousticModel, loss: Callable[..., Tensor], corpus: Corpus, settings: TrainConfig) -> AcousticModel:
    stage = DiffusionStage(model.network)
    data = Batches(corpus, model.config, settings.seed)
    weights = train(stage, partial(loss, stage.scale), data, settings).weights
    model.network.cpu().load_state_dict(weights, strict=False)
    model.save(settings.out / "model")
    return AcousticModel.load(settings.out / "model")
