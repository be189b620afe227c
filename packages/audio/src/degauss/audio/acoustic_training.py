r"""Training an acoustic model, in the two stages of the paper, each exactly resumable.

**First** the front end and the auxiliary decoder, to what a reader of the mel would measure:

    (ln(1 + d^) - ln(1 + d))^2 over phones + |p^ - p| over voiced frames (octaves) + cross-entropy of voicing
    + |A(c) - x0| over frames and bins (model units).

**Then** the denoiser on the condition of the first stage, which is frozen. For t uniform in (0, 1] and the prediction
F = u x0 + w eps of the model (v or x0),

    x_t = alpha x0 + sigma eps,    loss = mean |F^(x_t, t, c) - F|^2 over frames and bins.

The square makes the denoiser a posterior mean, which is what a solver needs; the published absolute error of eps makes
it a median. All t are trained, not only those below a K, so K may be chosen afterwards, for each utterance if need be.
Every utterance counts alike, however long.

A run's folder: ``auxiliary/`` and ``diffusion/``, each a run of `degauss.core.train` with its metrics.jsonl, and at the
end ``model/`` and ``mels.png``.

Reference: Liu et al. 2022, "DiffSinger" (AAAI), section 3.4; Ren et al. 2021, "FastSpeech 2" (ICLR).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degauss.audio.acoustic import AcousticConfig, AcousticModel, AcousticNet, Facts, frames_of
from degauss.audio.acoustic_data import Batches, Corpus, collate
from degauss.audio.acoustic_plots import mel_panels
from degauss.audio.frontend import Batch, frames_inside, midi_of, phones_inside
from degauss.audio.shallow import at_time, draw
from degauss.core.denoiser import expand
from degauss.core.errors import InputError, check_range
from degauss.core.gaussian import dpmpp
from degauss.core.noise import Noise
from degauss.core.train import TrainConfig, train

# Where the picture at the end starts its shallow diffusion.
_SHOWN_FROM = 0.5
_VALIDATION_SEED = 1


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Raises `InputError` for a value out of its range.

    ``out``: the run's folder. ``auxiliary_steps``, ``steps``: of the first and of the second stage. ``batch``:
    utterances a step. ``lr``: peak learning rate, which falls by a cosine. ``ema``: decay of the averaged weights.
    ``evaluate_every``: steps between validations, 0 for one at the end of each stage.
    """

    out: Path
    auxiliary_steps: int = 2000
    steps: int = 6000
    batch: int = 16
    lr: float = 1e-3
    ema: float = 0.99
    seed: int = 0
    save_every: int = 250
    evaluate_every: int = 500
    precision: Literal["no", "bf16", "fp16"] = "no"
    device: Literal["auto", "cpu"] = "auto"
    tracker: Literal["tensorboard"] | None = None

    def __post_init__(self) -> None:
        check_range("auxiliary_steps", self.auxiliary_steps, 1)
        _ = self.stage("diffusion", self.steps)

    def stage(self, name: str, steps: int) -> TrainConfig:
        """The configuration of one stage."""
        return TrainConfig(
            out=self.out / name,
            steps=steps,
            batch_size=self.batch,
            lr=self.lr,
            warmup=min(100, steps // 10),
            ema=self.ema,
            precision=self.precision,
            seed=self.seed,
            save_every=self.save_every,
            evaluate_every=self.evaluate_every,
            tracker=self.tracker,
            device=self.device,
        )


# --- first stage --------------------------------------------------------------------------------------------


class Said(NamedTuple):
    """What the first stage says: log durations ``[b, p]``, semitones and log-odds of a voice ``[b, n]``, the reference
    pitch ``[b, n]``, the auxiliary mel ``[b, mels, n]``.
    """

    log_durations: Tensor
    semitones: Tensor
    voiced: Tensor
    reference: Tensor
    mel: Tensor


class AuxiliaryStage(nn.Module):
    """The front end and the auxiliary decoder of a network, for the first stage; parameters keep their names."""

    def __init__(self, network: AcousticNet) -> None:
        super().__init__()
        self.scale, self.frontend, self.decoder = network.scale, network.frontend, network.decoder

    def forward(self, batch: Batch) -> Said:
        encoded = self.frontend.encode(batch)
        pitch = self.frontend.predict_pitch(batch, encoded)
        mel = self.decoder(self.frontend.condition(batch, encoded))
        return Said(self.frontend.log_durations(batch, encoded), *pitch, mel)


def auxiliary_losses(stage: Callable[[Batch], Said], batch: Batch, x0: Tensor) -> dict[str, Tensor]:
    """The parts of the first stage's loss by name, each ``[b]``. ``x0``: the mels in model units."""
    said = stage(batch)
    voiced = (batch.f0 > 0).float()
    frames = frames_inside(batch.durations, batch.f0.shape[1])
    octaves = (said.semitones - (midi_of(batch.f0) - said.reference)).abs() / 12
    duration = (said.log_durations - torch.log1p(batch.durations.to(x0.dtype))) ** 2
    return {
        "duration": _mean(duration, phones_inside(batch)),
        "pitch": _mean(octaves, voiced),
        "voicing": _mean(F.binary_cross_entropy_with_logits(said.voiced, voiced, reduction="none"), frames),
        "mel": _mean((said.mel - x0).abs().mean(1), frames),
    }


def auxiliary_loss(scale: Callable[[Tensor], Tensor], stage: nn.Module, batch: Batch, noise: Noise) -> Tensor:
    """The loss of the first stage, ``[b]``; nothing in it is random."""
    del noise
    return torch.stack(list(auxiliary_losses(stage, batch, scale(batch.mel)).values())).sum(0)


# --- second stage -------------------------------------------------------------------------------------------


class DiffusionStage(nn.Module):
    """The denoiser of a network on its frozen front end, for the second stage: ``(batch, x_t, t) -> F``."""

    def __init__(self, network: AcousticNet) -> None:
        super().__init__()
        self.scale, self.wavenet = network.scale, network.wavenet
        self.frontend = network.frontend.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """The frozen part stays as it is when it is used: without dropout."""
        super().train(mode)
        self.frontend.eval()
        return self

    def forward(self, batch: Batch, x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            condition = self.frontend.condition(batch, self.frontend.encode(batch))
        return self.wavenet(x, t, self.wavenet.project(condition), frames_of(condition)[:, None])


def diffusion_loss(
    model: AcousticModel,
    scale: Callable[[Tensor], Tensor],
    stage: Callable[[Batch, Tensor, Tensor], Tensor],
    batch: Batch,
    noise: Noise,
) -> Tensor:
    """The loss of the second stage, ``[b]``. A sample's t and eps are those of its number."""
    x0 = scale(batch.mel)
    t = noise.uniform(x0.new_empty(len(x0)), draw=0)
    eps = noise.normal(x0, draw=1)
    alpha, sigma = model.schedule(t)
    of_x0, of_eps = model.prediction.target(alpha, sigma)
    wanted = expand(of_x0, x0) * x0 + expand(of_eps, x0) * eps
    found = stage(batch, expand(alpha, x0) * x0 + expand(sigma, x0) * eps, t)
    return _mean((found - wanted).square().mean(1), frames_inside(batch.durations, x0.shape[2]))


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean of each row over where it counts, 0 if that is nowhere."""
    return (values * where).sum(1) / where.sum(1).clamp(min=1)


# --- both ---------------------------------------------------------------------------------------------------


def fit(config: AcousticConfig, corpus: Corpus, held_out: Corpus | None, recipe: Recipe) -> AcousticModel:
    """Train a model on a corpus, write ``out/model`` and ``out/mels.png``, and return it, frozen, on the CPU.

    The losses on ``held_out`` go to the stages' metrics.jsonl. A run that was stopped goes on in the stage and at the
    step where it was; see `degauss.core.train` for what it raises. `InputError` also where ``out/model`` has a boundary
    that was fitted to it, which would no longer belong to it.
    """
    if (recipe.out / "model" / "boundary.json").exists():
        raise InputError(
            f"{recipe.out / 'model'}: has a boundary that was fitted to it; expected another folder for the run."
        )
    facts = Facts(sings=corpus.sings, ranges=corpus.ranges(), hashes={"data": corpus.digest})
    model = AcousticModel.new(config, corpus.statistics(config.voices), facts, recipe.seed)
    data = Batches(corpus, config, recipe.seed)
    batches = [] if held_out is None else _batches(held_out, config, recipe.batch)

    first = AuxiliaryStage(model.network)
    trained = train(
        first,
        partial(auxiliary_loss, first.scale),
        data,
        recipe.stage("auxiliary", recipe.auxiliary_steps),
        evaluate=partial(_validate_auxiliary, batches) if batches else None,
    )
    model.network.load_state_dict(trained.weights, strict=False)

    second = DiffusionStage(model.network)
    loss = partial(diffusion_loss, model, second.scale)
    trained = train(
        second,
        loss,
        data,
        recipe.stage("diffusion", recipe.steps),
        evaluate=partial(_validate_diffusion, batches, loss) if batches else None,
    )
    model.network.load_state_dict(trained.weights, strict=False)

    model.save(recipe.out / "model")
    model = AcousticModel.load(recipe.out / "model")
    _picture(model, (held_out or corpus), recipe.out / "mels.png")
    return model


def _batches(corpus: Corpus, config: AcousticConfig, size: int) -> list[Batch]:
    items = corpus.items
    return [collate(items[first : first + size], config) for first in range(0, len(items), size)]


@torch.no_grad()
def _validate_auxiliary(batches: list[Batch], stage: nn.Module) -> Mapping[str, float]:
    scale: Any = stage.scale
    parts: dict[str, list[Tensor]] = {}
    for batch in batches:
        batch = _beside(batch, scale.low)
        for name, values in auxiliary_losses(stage, batch, scale(batch.mel)).items():
            parts.setdefault(name, []).append(values)
    figures = {f"validation_{name}": float(torch.cat(values).mean()) for name, values in parts.items()}
    return {"validation": sum(figures.values()), **figures}


@torch.no_grad()
def _validate_diffusion(
    batches: list[Batch], loss: Callable[[nn.Module, Batch, Noise], Tensor], stage: nn.Module
) -> Mapping[str, float]:
    scale: Any = stage.scale
    values: list[Tensor] = []
    done = 0
    for batch in batches:
        rows = range(done, done + len(batch.phones))
        values.append(loss(stage, _beside(batch, scale.low), Noise(_VALIDATION_SEED, rows)))
        done = rows.stop
    return {"validation": float(torch.cat(values).mean())}


def _beside(batch: Batch, like: Tensor) -> Batch:
    return Batch(*(part.to(like.device) for part in batch))


@torch.no_grad()
def _picture(model: AcousticModel, corpus: Corpus, path: Path) -> None:
    """The first recording as it is, as the auxiliary decoder has it, and by shallow diffusion."""
    item = corpus.items[0]
    condition = model.condition(collate([item], model.config))
    scale = model.network.scale
    sharp = draw(model, condition, at_time(_SHOWN_FROM), solver=dpmpp(2), steps=10)
    panels = {
        f"recording ({item.name})": item.mel,
        "auxiliary decoder": scale.inverse(model.auxiliary(condition)[0]),
        f"shallow diffusion from t = {_SHOWN_FROM}": scale.inverse(sharp.mel[0]),
    }
    mel_panels(path, panels, model.config.mel)
