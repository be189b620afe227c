r"""Training a prior of slices: denoising at all levels, in the one loop of the core.

The loss of a slice is EDM's, the mean squared error of the network's own output F against its unit-variance target
(`degauss.core.denoiser.Karras`). Levels sigma, in units of the data's root mean square s, are of two kinds: four in
five are log-normal around 0.6 s with 1.4 standard deviations of log sigma, EDM's proportions a little wider; the rest
are even in log sigma over the whole range, so that a reconstruction may start and end anywhere in it. The levels of a
batch spread evenly over the distribution (Weyl's sequence).

Karras, Aittala, Aila, Laine 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", section 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from degauss.core.cli import provenance
from degauss.core.denoiser import Karras, expand
from degauss.core.jump import weyl
from degauss.core.noise import Noise
from degauss.core.train import TrainConfig, remember, train
from degauss.medical.prior import PriorConfig, SlicePrior
from degauss.medical.prior_quality import metrics
from degauss.medical.slices import Slices

_EVEN = 0.2  # share of the levels that are even in log sigma
_MEDIAN, _SPREAD = 0.6, 1.4  # of the others: in units of s, and of log sigma
_MEASURED = 256  # slices whose root mean square is taken
_VALID, _VALID_SLICES = 20, 16  # keys the noise that held-out slices are measured in; so many of each size


@dataclass(frozen=True)
class DenoisingLoss:
    """What `degauss.core.train.train` is given: EDM's loss of slices ``[batch, 1, rows, columns]``, ``[batch]``."""

    config: PriorConfig

    def __call__(self, network: nn.Module, x0: Tensor, noise: Noise) -> Tensor:
        return self.at(network, x0, self.levels(noise, x0.device), noise)

    def at(self, network: nn.Module, x0: Tensor, sigma: Tensor, noise: Noise) -> Tensor:
        """The loss at levels ``sigma [batch]``; 1 is that of a network that says nothing, 0 perfection."""
        prediction, alpha = Karras(self.config.sigma_data), torch.ones_like(sigma)
        eps = noise.normal(x0)
        factor, level = prediction.network_input(alpha, sigma, sigma)
        assert factor is not None
        u, w = prediction.target(alpha, sigma)
        said = network(expand(factor, x0) * (x0 + expand(sigma, x0) * eps), level.to(x0.dtype))
        error = said - (expand(u, x0) * x0 + expand(w, x0) * eps)
        return error.square().flatten(1).mean(1)

    def levels(self, noise: Noise, device: torch.device) -> Tensor:
        """The levels of a batch, ``[batch]``, float64, inside the range of the configuration."""
        low, high = (math.log(level) for level in self.config.noise)
        u = weyl(noise, device)
        even = low + (high - low) * u / _EVEN
        normal = math.log(_MEDIAN * self.config.sigma_data) + _SPREAD * torch.special.ndtri((u - _EVEN) / (1 - _EVEN))
        return torch.where(u < _EVEN, even, normal).clamp(low, high).exp()


def root_mean_square(data: Slices) -> float:
    """sigma_data: the root mean square of the first slices that a training sees, in prior units."""
    steps = range(-(-_MEASURED // data.batch))
    means = [data(range(k * data.batch, (k + 1) * data.batch)).double().square().mean() for k in steps]
    return float(torch.stack(means).mean().sqrt())


def recipe(
    out: Path,
    *,
    steps: int,
    batch: int = 8,
    lr: float = 1e-3,
    ema: float = 0.999,
    seed: int = 0,
    save_every: int = 500,
    precision: Literal["no", "bf16", "fp16"] = "no",
    device: Literal["auto", "cpu"] = "auto",
    tracker: Literal["tensorboard"] | None = None,
) -> TrainConfig:
    """How a prior is trained, in the directory ``out``; `InputError` for a value out of its range."""
    return TrainConfig(
        out=out,
        steps=steps,
        batch_size=batch,
        lr=lr,
        warmup=min(200, steps // 10),
        ema=ema,
        precision=precision,
        seed=seed,
        save_every=save_every,
        evaluate_every=save_every,
        tracker=tracker,
        device=device,
    )


def fit(config: PriorConfig, data: Slices, held_out: Slices | None, settings: TrainConfig) -> SlicePrior:
    """Train a prior, write it to ``out/model``, and return it, frozen, on the CPU.

    ``held_out``: slices whose loss is logged, in the same noise every time. A run that was stopped goes on; see
    `degauss.core.train` for what it raises. `InputError` where ``out`` holds the run of another prior.
    """
    remember(settings.out, "another prior, or one of other volumes,", asdict(config))
    prior = SlicePrior.new(config, settings.seed)
    loss = DenoisingLoss(config)
    evaluate = None if held_out is None else _validation(loss, held_out)
    result = train(prior.network, loss, data, settings, evaluate=evaluate)
    prior.save(settings.out / "model", weights=result.weights)
    return SlicePrior.load(settings.out / "model")


def card_of(
    prior: SlicePrior, data: Slices, held_out: Slices, settings: TrainConfig, trained_on: Mapping[str, Any]
) -> dict[str, Any]:
    """What a prior's ``card.json`` says: what it knows, how it was trained, and what it is worth."""
    (finest, coarsest), (low, high) = prior.config.spacing, prior.config.noise
    sizes = " and ".join(f"{size} x {size}" for size in data.cuts.sizes)
    what = f"axial slices of {prior.config.modality.upper()}"
    return {
        "trained_on": dict(trained_on),
        "slices": {
            "training": sum(len(source.slices) for source in data.sources),
            "held_out": sum(len(source.slices) for source in held_out.sources),
        },
        "knows": f"{what}, {sizes} pixels of {finest:.3g} to {coarsest:.3g} mm, noise of {low:g} to {high:g} in prior "
        "units",
        "cuts": asdict(data.cuts),
        "steps": settings.steps,
        "batch": settings.batch_size,
        "lr": settings.lr,
        "seed": settings.seed,
        "parameters": sum(weight.numel() for weight in prior.network.parameters()),
        "metrics": metrics(prior, data, held_out),
        "provenance": provenance(),
    }


def _validation(loss: DenoisingLoss, held_out: Slices) -> Callable[[nn.Module], Mapping[str, float]]:
    """The loss of held-out slices, of all sizes together."""
    samples = range(_VALID_SLICES)
    batches = [held_out.stack(samples, size) for size in held_out.cuts.sizes]

    def evaluate(network: nn.Module) -> Mapping[str, float]:
        device = next(network.parameters()).device
        with torch.no_grad():
            losses = [loss(network, batch.to(device), Noise(_VALID, samples)).mean() for batch in batches]
        return {"held_out_loss": float(torch.stack(losses).mean())}

    return evaluate
