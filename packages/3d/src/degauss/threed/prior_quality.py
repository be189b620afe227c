r"""What an embedded prior is worth: what it draws from noise, beside the truth, and how well it denoises.

No distillation can be better than the prior it distils. As the meshes behind its words are known, the pictures that it
draws of each word and view are compared with the true ones,

    PSNR = -10 log10 mean (rgb - rgb_true)^2,

beside two that need no prior: the word's mean picture over all views, which is the best guess without a view, and the
true picture from a little farther away, as a prior is not told the distance and so cannot know it. The nearest of all
true pictures, of any word and view, says what a drawn one shows: of which object it is, and from where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from degauss.core.gaussian import ddim
from degauss.core.guide import Extrapolated, TwoModels
from degauss.core.noise import Noise
from degauss.core.sampling import sample
from degauss.threed.cameras import Cameras
from degauss.threed.embedded_prior import EmbeddedConfig, EmbeddedPrior, told
from degauss.threed.meshes import Mesh
from degauss.threed.prior import Condition
from degauss.threed.view_images import Batch, pictures
from degauss.threed.views import Views

AZIMUTHS = tuple(45.0 * k for k in range(8))
ELEVATION = 15.0
TIMES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
_STEPS = 50
_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Truth:
    """True pictures ``[words, views, channels, size, size]`` of a prior's words, in its order, and where from.

    ``farther``: the same from half way to the farthest camera.
    """

    pictures: Tensor
    farther: Tensor
    views: Views

    @classmethod
    def of(cls, config: EmbeddedConfig, meshes: Mapping[str, Mesh]) -> Truth:
        """Pictures of one mesh a word, from `AZIMUTHS` and the middle of the radii and angles of view."""
        near, far = config.orbits.radius
        fov = sum(config.orbits.fov) / 2
        azimuth = torch.tensor(AZIMUTHS)

        def seen(radius: float) -> Tensor:
            cameras = Cameras.orbit(azimuth, ELEVATION, radius, fov, config.size)
            return torch.stack([pictures(meshes[word], cameras)[:, : config.channels] for word in config.vocabulary])

        views = Views(azimuth, torch.full_like(azimuth, ELEVATION))
        return cls(seen((near + far) / 2), seen((near + 3 * far) / 4), views)


def drawn(prior: EmbeddedPrior, views: Views, *, guidance: float = 1.0, steps: int = _STEPS, seed: int = 0) -> Tensor:
    """Samples of each word from each view, ``[words, views, channels, size, size]``: DDIM at even times from noise."""
    words = prior.vocabulary
    strong = prior.together([Condition(word, views) for word in words])
    weak = prior.together([Condition(None, views) for _ in words])
    rows = len(words) * len(views)
    with torch.inference_mode():
        made = sample(
            strong if guidance == 1 else Extrapolated(TwoModels(strong, weak), guidance),
            prior.schedule,
            (rows, prior.channels, prior.size, prior.size),
            solver=ddim(),
            steps=steps,
            seed=seed,
            device=prior.device,
        )
    return made.cpu().unflatten(0, (len(words), len(views)))


def psnr(pictures: Tensor, truth: Tensor) -> Tensor:
    """Of the colours of ``[..., channels, size, size]`` in [-1, 1], dB."""
    error = (pictures[..., :3, :, :].clamp(-1, 1) - truth[..., :3, :, :]).double() / 2
    return -10 * error.square().mean((-3, -2, -1)).log10()


def nearest(pictures: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
    """The numbers of the word and of the view of the nearest true colours, each ``[words, views]``."""
    known, asked = (x[:, :, :3].flatten(2).flatten(0, 1) for x in (truth.pictures, pictures))
    found = torch.cdist(asked, known).argmin(1).view(pictures.shape[:2])
    return found // len(truth.views), found % len(truth.views)


def samples_report(prior: EmbeddedPrior, truth: Truth, guidance: float) -> dict[str, Any]:
    """How near drawn pictures come to the true ones, by view and by word."""
    made = drawn(prior, truth.views, guidance=guidance)
    found = psnr(made, truth.pictures)
    blind = psnr(truth.pictures.mean(1, keepdim=True).expand_as(truth.pictures), truth.pictures)
    word, view = nearest(made, truth)
    numbers = torch.arange(len(prior.vocabulary))[:, None]
    asked = torch.arange(len(truth.views))
    return {
        "guidance": guidance,
        "psnr": _round(found.mean()),
        "psnr_of_mean_picture": _round(blind.mean()),
        "psnr_of_true_from_farther": _round(psnr(truth.farther, truth.pictures).mean()),
        "psnr_by_azimuth": {f"{angle:g}": _round(v) for angle, v in zip(AZIMUTHS, found.mean(0), strict=True)},
        "psnr_by_word": {name: _round(v) for name, v in zip(prior.vocabulary, found.mean(1), strict=True)},
        "right_word": _round((word == numbers).double().mean()),
        "right_view": _round(((word == numbers) & (view == asked)).double().mean()),
        "shows_the_front": _round(((word == numbers) & (view == 0)).double().mean()),
    }


def denoising_report(prior: EmbeddedPrior, unseen: Batch) -> list[dict[str, float]]:
    """Root mean square errors of the posterior mean against t on pictures that were not trained on, and what they are
    without the word, without the view, and of the mean of these pictures.
    """
    config, network = prior.config, prior.network_denoiser()
    views = Views(unseen.azimuth, unseen.elevation)
    nothing = torch.full_like(unseen.label, -1)
    conditions = {
        "told": told(config, unseen.label, views),
        "without_word": told(config, nothing, views),
        "without_view": told(config, unseen.label, None),
    }
    mean = _rms(unseen.x0 - unseen.x0.mean(0))
    rows: list[dict[str, float]] = []
    for k, time in enumerate(TIMES):
        t = torch.tensor(time, dtype=torch.float64)
        alpha, sigma = (float(scale) for scale in prior.schedule(t))
        x = alpha * unseen.x0 + sigma * Noise(0, range(len(unseen.x0))).normal(unseen.x0, draw=k)
        errors = {
            name: round(_rms(_denoised(prior, network, x, t, condition) - unseen.x0), 5)
            for name, condition in conditions.items()
        }
        rows.append({"t": time, **errors, "mean_picture": round(mean, 5)})
    return rows


def _denoised(prior: EmbeddedPrior, network: Any, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
    pairs = zip(x.split(_AT_ONCE), condition.split(_AT_ONCE), strict=True)
    with torch.inference_mode():
        return torch.cat([network(a.to(prior.device), t, told=b.to(prior.device)).mean.cpu() for a, b in pairs])


def metrics(prior: EmbeddedPrior, meshes: Mapping[str, Mesh], unseen: Batch) -> dict[str, Any]:
    """What a card says of a prior. ``meshes``: one for each of its words."""
    truth = Truth.of(prior.config, meshes)
    return {
        "what": f"pictures drawn from noise in {_STEPS} DDIM steps, seen from eight sides at {ELEVATION:g} degrees, "
        "against the true ones: PSNR of the colours in dB, beside the mean picture of the word and the true one from "
        "farther away; the share whose nearest true picture, of any word and side, is of the right word (and side; or "
        "is the front); denoising: root mean square errors of x0 in [-1, 1] on pictures from other places",
        "samples": [samples_report(prior, truth, guidance) for guidance in (1.0, 2.0)],
        "denoising": denoising_report(prior, unseen),
    }


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def _round(value: Tensor) -> float:
    return round(float(value), 3)
