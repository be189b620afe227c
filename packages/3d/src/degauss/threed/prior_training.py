r"""Training an embedded prior: denoising at all levels, in the one loop of the core.

The loss of a picture is the mean squared error of the network's own output F against its unit-variance target
(`degauss.core.denoiser.Karras`), which on a variance-preserving path is v-prediction in units of the data. Predicting
the noise would leave the network untrained for longest where distillation asks it most, at high noise: there the loss
of the noise is small whatever the network says of the object. For the same reason its levels are denser there,

    t = 1 - (1 - u)^(3/2),   u even in (0, 1) (Weyl's sequence), over the prior's span of times.

The name of the object is left out at times, and so is the view, so that one network answers for both with and without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from degauss.core.cli import provenance
from degauss.core.denoiser import Karras, expand
from degauss.core.errors import check_range
from degauss.core.jump import weyl
from degauss.core.noise import Noise
from degauss.core.options import Report
from degauss.core.train import TrainConfig, remember, train
from degauss.threed.cameras import Orbits
from degauss.threed.embedded_prior import EmbeddedConfig, EmbeddedPrior, told
from degauss.threed.meshes import Mesh
from degauss.threed.prior_quality import metrics
from degauss.threed.view_images import Batch, Classes, ViewImages, draw_classes
from degauss.threed.views import Views

_DENSER = 1.5
_NAMELESS, _VIEWLESS = 1, 2  # draws of the noise; 0 is that of the pictures
_MEASURED = 256  # pictures whose root mean square is taken
_UNSEEN, _ELSEWHERE = 40, 1000  # pictures of a class that are not trained on, and what moves the seed of their views
_VALID = 20  # keys the noise that unseen pictures are measured in


@dataclass(frozen=True)
class DenoisingLoss:
    """What `degauss.core.train.train` is given: the loss of each picture, ``[batch]``.

    ``nameless``, ``viewless``: the shares of pictures whose object, and whose view, is not told.
    """

    prior: EmbeddedPrior
    nameless: float = 0.12
    viewless: float = 0.1

    def __post_init__(self) -> None:
        check_range("the share of pictures without a name", self.nameless, 0, 1)
        check_range("the share of pictures without a view", self.viewless, 0, 1)

    def __call__(self, network: nn.Module, batch: Batch, noise: Noise) -> Tensor:
        return self.at(network, batch, self.times(noise, batch.x0.device), noise)

    def at(self, network: nn.Module, batch: Batch, t: Tensor, noise: Noise) -> Tensor:
        """The loss at times ``[batch]``; 1 is that of a network that says nothing, 0 perfection."""
        prediction, x0 = Karras(self.prior.config.sigma_data), batch.x0
        alpha, sigma = self.prior.schedule(t)
        eps = noise.normal(x0)
        factor, level = prediction.network_input(alpha, sigma, t)
        assert factor is not None
        x = expand(alpha, x0) * x0 + expand(sigma, x0) * eps
        said = network(expand(factor, x0) * x, level.to(x0.dtype), told=self._told(batch, noise))
        u, w = prediction.target(alpha, sigma)
        error = said - (expand(u, x0) * x0 + expand(w, x0) * eps)
        return error.square().flatten(1).mean(1)

    def times(self, noise: Noise, device: torch.device) -> Tensor:
        """The times of a batch, ``[batch]``, float64, inside the prior's span."""
        low, high = self.prior.config.times
        return low + (high - low) * (1 - (1 - weyl(noise, device)) ** _DENSER)

    def _told(self, batch: Batch, noise: Noise) -> Tensor:
        def drawn(draw: int) -> Tensor:
            return noise.uniform(torch.empty(len(batch.label), device=batch.label.device), draw)

        label = batch.label.masked_fill(drawn(_NAMELESS) < self.nameless, -1)
        all_told = told(self.prior.config, label, Views(batch.azimuth, batch.elevation))
        hidden = (drawn(_VIEWLESS) < self.viewless)[:, None]
        of_view = torch.arange(all_told.shape[1], device=label.device) >= len(self.prior.vocabulary)
        return all_told.masked_fill(hidden & of_view, 0.0)


@dataclass(frozen=True)
class Drawing:
    """How the pictures of a training are drawn: see `degauss.threed.view_images.draw_classes`."""

    orbits: Orbits
    size: int
    normals: bool
    count: int
    seed: int
    cache: Path

    def training(self, classes: Classes, report: Report) -> ViewImages:
        """``count`` pictures of each class."""
        return self._drawn(classes, self.count, self.seed, report)

    def unseen(self, classes: Classes, report: Report) -> ViewImages:
        """Some pictures of each class from other places."""
        return self._drawn(classes, min(_UNSEEN, self.count), self.seed + _ELSEWHERE, report)

    def _drawn(self, classes: Classes, count: int, seed: int, report: Report) -> ViewImages:
        return draw_classes(
            classes,
            orbits=self.orbits,
            size=self.size,
            normals=self.normals,
            count=count,
            seed=seed,
            cache=self.cache,
            report=report,
        )


def root_mean_square(data: ViewImages) -> float:
    """sigma_data: the root mean square of the first pictures that a training sees."""
    return float(data(range(_MEASURED)).x0.double().square().mean().sqrt())


def recipe(
    out: Path,
    *,
    steps: int,
    batch: int = 32,
    lr: float = 1.5e-3,
    ema: float = 0.999,
    seed: int = 0,
    save_every: int = 250,
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
        evaluate_every=2 * save_every,
        tracker=tracker,
        device=device,
    )


def fit(
    config: EmbeddedConfig,
    data: ViewImages,
    unseen: ViewImages | None,
    settings: TrainConfig,
    *,
    nameless: float = 0.12,
    viewless: float = 0.1,
) -> EmbeddedPrior:
    """Train a prior, write it to ``out/model``, and return it, frozen, on the CPU.

    ``unseen``: pictures from other places, whose loss is logged, in the same noise every time. A run that was stopped
    goes on; see `degauss.core.train` for what it raises. `InputError` where ``out`` holds the run of another prior.
    """
    prior = EmbeddedPrior.new(config, settings.seed)
    loss = DenoisingLoss(prior, nameless, viewless)
    remember(settings.out, "a prior", {**asdict(config), "nameless": nameless, "viewless": viewless})
    evaluate = None if unseen is None else _validation(DenoisingLoss(prior, 0.0, 0.0), unseen)
    result = train(prior.network, loss, data, settings, evaluate=evaluate)
    prior.save(settings.out / "model", weights=result.weights)
    return EmbeddedPrior.load(settings.out / "model")


def card_of(
    prior: EmbeddedPrior,
    data: ViewImages,
    unseen: ViewImages,
    meshes: Mapping[str, Mesh],
    settings: TrainConfig,
    trained_on: Mapping[str, Any],
) -> dict[str, Any]:
    """What a prior's ``card.json`` says: what it knows, how it was trained, and what it is worth.

    ``meshes``: the truth of each word.
    """
    config = prior.config
    (low, high), (near, far) = config.orbits.elevation, config.orbits.radius
    return {
        "trained_on": dict(trained_on),
        "knows": f"the words {', '.join(config.vocabulary)}, and no others, at {config.size} x {config.size} pixels, "
        f"seen from {low:g} to {high:g} degrees above and {near:g} to {far:g} away",
        "pictures": len(data.images),
        "steps": settings.steps,
        "batch": settings.batch_size,
        "lr": settings.lr,
        "seed": settings.seed,
        "parameters": sum(weight.numel() for weight in prior.network.parameters()),
        "metrics": metrics(prior, meshes, unseen(range(len(unseen.images)))),
        "provenance": provenance(),
    }


def _validation(loss: DenoisingLoss, unseen: ViewImages) -> Callable[[nn.Module], Mapping[str, float]]:
    """The loss on all pictures of ``unseen``, each in one noise."""
    samples = range(len(unseen.images))
    batch = unseen(samples)

    def evaluate(network: nn.Module) -> Mapping[str, float]:
        device = next(network.parameters()).device
        there = Batch(*(values.to(device) for values in batch))
        with torch.no_grad():
            losses = loss(network, there, Noise(_VALID, samples))
        return {"unseen_loss": float(losses.mean())}

    return evaluate
