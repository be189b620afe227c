r"""Text-to-image models of diffusers as priors: Stable Diffusion 1.5, 2.1 and XL, multi-view models, Zero123.

    pipeline = StableDiffusionPipeline.from_pretrained(..., torch_dtype=torch.float16).to("cuda")
    prior = DiffusersPrior.of(pipeline)

The pipeline comes built, from wherever its owner got it; nothing is downloaded here. Of it are used the U-net, the VAE,
the prompt's encoder and the scheduler's configuration; the scheduler itself, which has a state, is not. With
``pipeline.enable_model_cpu_offload()`` its parts take turns on the GPU.

**Path.** A scheduler with ``alphas_cumprod`` of N steps is a `DiscreteVP`, whose step i (from 0) is at t = (i + 1) / N,
so the U-net is told N t - 1. A flow-matching model knows x_s = (1 - s) x0 + s eps; on the variance-preserving path of
the same noise it is shown

    x_s = x_t / (alpha + sigma),   s = sigma / (alpha + sigma).

**Views.** A text-to-image model is not told where it looks from. `direction_words` says it in words (Poole et al. 2023,
"DreamFusion", section 3.2); `MultiView` gives cameras to models like MVDream (Shi et al. 2024), and `ImageToView` the
way from a given photograph to models like Zero123 (Liu et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from degauss.core.denoiser import X0, Denoiser, Eps, Flow, NetworkDenoiser, Prediction, V, Weights
from degauss.core.errors import InputError, check_option
from degauss.core.posterior import Point
from degauss.core.schedule import Cosine, DiscreteVP, Schedule
from degauss.threed.cameras import Cameras
from degauss.threed.prior import Condition, block_rows, decode_pixels, encode_pixels, guided
from degauss.threed.views import Views

PREDICTIONS: Mapping[str, Prediction] = {"epsilon": Eps(), "v_prediction": V(), "sample": X0()}
"""What a U-net predicts, by the name that schedulers have for it."""

_FLOW = "flow_prediction"
_LEAST = 1e-8
"""alpha^2 of the last step of schedulers that end in pure noise, where noise could not be predicted."""

_ADDED = ("text_embeds", "time_ids")  # what the U-net of SDXL is given beside the text

PromptOfView = Callable[[str, float, float], str]
"""(prompt, azimuth, elevation in degrees) -> the prompt of that view."""


def direction_words(prompt: str, azimuth: float, elevation: float) -> str:
    """The prompt with "overhead view" above 60 degrees, else "front", "side" or "back view" by the nearest."""
    if elevation > 60:
        return f"{prompt}, overhead view"
    away = abs((azimuth + 180) % 360 - 180)
    return f"{prompt}, {'front' if away <= 45 else 'back' if away >= 135 else 'side'} view"


# --- what a U-net is told beside the text -------------------------------------------------------------------


class Extra(Protocol):
    """What a U-net is told beside the text."""

    @property
    def fixed(self) -> Mapping[str, Any]:
        """Arguments of the U-net that are no tensors."""
        ...

    def told(self, condition: Condition) -> Mapping[str, Tensor]:
        """Arguments of the U-net under a condition, of one row or one a view, float32.

        "concat" is joined to the channels of x; other names replace what the text says.
        """
        ...


@dataclass(frozen=True)
class TextOnly:
    """Nothing."""

    @property
    def fixed(self) -> Mapping[str, Any]:
        return {}

    def told(self, condition: Condition) -> Mapping[str, Tensor]:
        del condition
        return {}


@dataclass(frozen=True)
class MultiView:
    """Cameras, for a U-net ``(x, t, text, camera=[rows, 16], num_frames=k)`` whose k consecutive rows are one object.

    MVDream's cameras: world from camera with z up, at distance 1, flattened; 0 without views.
    """

    frames: int = 4

    @property
    def fixed(self) -> Mapping[str, Any]:
        return {"num_frames": self.frames}

    def told(self, condition: Condition) -> Mapping[str, Tensor]:
        views = condition.views
        if views is None:
            return {"camera": torch.zeros(1, 16)}
        if len(views) % self.frames:
            raise ValueError(f"{len(views)} views are no whole number of objects of {self.frames} views each")
        pose = Cameras.orbit(views.azimuth.cpu(), views.elevation.cpu(), radius=1.0).world_from_camera
        # y up to z up, with the front that was +z at +x: (x, y, z) -> (z, x, y).
        z_up = pose[:, [2, 0, 1, 3]]
        return {"camera": z_up.flatten(1)}


@dataclass(frozen=True, eq=False)
class ImageToView:
    """The way from a photograph to a view, for a U-net that is shown the photograph's latent beside x (Zero123).

    ``latent`` ``[1, c, h, w]``: of the photograph, unscaled, as Zero123 has it. ``embedding`` ``[1, 1, d]``: of it by
    CLIP. ``project``: the model's layer ``[n, 1, d + 4] -> [n, 1, d']``. ``view``: where it was taken from. It is told
    (polar angle, sin and cos of the azimuth, distance) relative to the photograph; without a prompt, which stands for
    the photograph here, all is 0.
    """

    latent: Tensor
    embedding: Tensor
    project: nn.Module
    view: Views

    @property
    def fixed(self) -> Mapping[str, Any]:
        return {}

    def told(self, condition: Condition) -> Mapping[str, Tensor]:
        views = self.view if condition.views is None else condition.views
        turn = torch.deg2rad(views.azimuth.cpu() - self.view.azimuth.cpu())
        fall = torch.deg2rad(self.view.elevation.cpu() - views.elevation.cpu())
        way = torch.stack((fall, turn.sin(), turn.cos(), torch.zeros_like(turn)), -1)[:, None]
        weight = next(self.project.parameters())
        embedding = self.embedding.to(weight).expand(len(way), -1, -1)
        with torch.no_grad():
            text = self.project(torch.cat((embedding, way.to(weight)), -1)).float()
        shown = float(condition.prompt is not None)
        return {"encoder_hidden_states": shown * text, "concat": shown * self.latent.float()}


# --- the prior ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DiffusersPrior:
    """A pipeline of diffusers as a `degauss.threed.prior.Prior`; made by `of`.

    ``prediction``: what its U-net predicts and is told. ``negative``: the prompt of the unconditional answer.
    ``prompt_of_view``: how a prompt says where it looks from; None: it does not. ``extra``: what the U-net is told
    beside the text. Its x0 are latents, where the pipeline has a VAE.
    """

    pipeline: Any = field(repr=False)
    schedule: Schedule
    prediction: Prediction
    size: int
    negative: str = ""
    prompt_of_view: PromptOfView | None = None
    extra: Extra = TextOnly()
    _texts: dict[str, Mapping[str, Tensor]] = field(default_factory=dict[str, Mapping[str, Tensor]], repr=False)

    @classmethod
    def of(
        cls,
        pipeline: Any,
        *,
        size: int | None = None,
        negative: str = "",
        prompt_of_view: PromptOfView | None = None,
        extra: Extra = TextOnly(),
    ) -> DiffusersPrior:
        """From a pipeline with a U-net, whose weights are frozen here.

        ``size``: height and width of x0 (the latents), the U-net's own unless given. Raises `InputError` for a pipeline
        without a U-net, or a scheduler whose prediction is not known.
        """
        unet = getattr(pipeline, "unet", None)
        if not isinstance(unet, nn.Module):
            name = type(pipeline).__name__
            raise InputError(f"a prior is made of a pipeline with a U-net, but {name} has none.")
        schedule, prediction = path_of(pipeline.scheduler)
        for part in (unet, _vae(pipeline)):
            if part is not None:
                part.eval().requires_grad_(False)
        vae = _vae(pipeline)
        if vae is not None and vae.dtype == torch.float16 and vae.config.get("force_upcast", False):
            vae.to(dtype=torch.float32)  # its activations overflow in half precision
        own = int(pipeline.unet.config.sample_size)
        return cls(pipeline, schedule, prediction, size or own, negative, prompt_of_view, extra)

    @property
    def network(self) -> nn.Module:
        """The U-net, which every answer goes through."""
        return self.pipeline.unet

    @property
    def channels(self) -> int:
        return int(self.pipeline.unet.config.out_channels)

    @property
    def vocabulary(self) -> None:
        """Any text will do."""
        return None

    @property
    def pixels(self) -> int:
        """Height and width of the images that it encodes."""
        vae = _vae(self.pipeline)
        return self.size * (1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1))

    @property
    def device(self) -> torch.device:
        """Where it computes, also where its parts wait elsewhere."""
        running = getattr(self.pipeline, "_execution_device", None)
        return next(self.network.parameters()).device if running is None else torch.device(running)

    def check(self, prompt: str, /) -> None:
        """`InputError` for a prompt without a word."""
        if not prompt.strip():
            raise InputError("the prompt is empty; expected some words that say what to make.")

    def together(self, conditions: Sequence[Condition], /) -> Denoiser[Point]:
        """The posterior means of several conditions in one batch: see `degauss.threed.prior.Prior`."""
        for condition in conditions:
            if condition.prompt is not None:
                self.check(condition.prompt)
        blocks = tuple({**self._text(condition), **self.extra.told(condition)} for condition in conditions)
        denoiser = NetworkDenoiser(_Asked(self.pipeline, self.extra.fixed), self.schedule, self.prediction)
        return _Blocks(denoiser, conditions, blocks)

    def denoiser(self, prompt: str, guidance: float = 1.0, views: Views | None = None) -> Denoiser[Point]:
        """The posterior mean under a prompt, extrapolated from that under the negative one."""
        return guided(self, prompt, guidance, views)

    def unconditional(self, views: Views | None = None) -> Denoiser[Point]:
        """The posterior mean under the negative prompt."""
        return self.together((Condition(None, views),))

    def encode(self, rgb: Tensor, normal: Tensor) -> Tensor:
        """Latents of renders: the mode of the VAE's posterior, in the U-net's units. Normals are not looked at."""
        x = encode_pixels(rgb, normal, self.pixels)
        vae = _vae(self.pipeline)
        if vae is None:
            return x
        latent = vae.encode(x.to(self.device, vae.dtype)).latent_dist.mode().float()
        shift, scale = _units(vae)
        return (latent - shift) * scale

    def decode(self, x0: Tensor) -> Tensor:
        """Colours of latents, differentiable inside (0, 1)."""
        vae = _vae(self.pipeline)
        if vae is None:
            return decode_pixels(x0)
        shift, scale = _units(vae)
        return decode_pixels(vae.decode((x0 / scale + shift).to(vae.dtype)).sample.float())

    def _text(self, condition: Condition) -> Mapping[str, Tensor]:
        """The embeddings of a condition's prompt, of one row, or of one a view where its prompt says so."""
        prompt, views, worded = condition.prompt, condition.views, self.prompt_of_view
        if prompt is None or views is None or worded is None:
            return self._embedded(self.negative if prompt is None else prompt)
        angles = zip(views.azimuth.tolist(), views.elevation.tolist(), strict=True)
        rows = [self._embedded(worded(prompt, azimuth, elevation)) for azimuth, elevation in angles]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def _embedded(self, prompt: str) -> Mapping[str, Tensor]:
        """The embeddings of a prompt, computed once."""
        if prompt not in self._texts:
            with torch.no_grad():
                made = self.pipeline.encode_prompt(
                    prompt=prompt, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
                )
            told = {"encoder_hidden_states": made[0]}
            if len(made) == 4:  # SDXL: text, negative text, and both pooled
                side = self.pixels
                told["text_embeds"] = made[2]
                told["time_ids"] = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32)
            self._texts[prompt] = told
        return self._texts[prompt]


@dataclass(frozen=True, eq=False)
class _Asked:
    """The U-net as a network of `degauss.core.denoiser`."""

    pipeline: Any
    fixed: Mapping[str, Any]

    def __call__(self, x: Tensor, timestep: Tensor, /, **told: Tensor) -> Tensor:
        unet = self.pipeline.unet
        given = {name: value.to(x.device, unet.dtype) for name, value in told.items()}
        shown = [x.to(unet.dtype), *(given.pop(name) for name in ("concat",) if name in given)]
        added = {name: given.pop(name) for name in _ADDED if name in given}
        if added:
            given["added_cond_kwargs"] = added  # pyright: ignore[reportArgumentType]
        rows = timestep.to(x.device).expand(len(x))
        return unet(torch.cat(shown, 1), rows, **given, **self.fixed, return_dict=False)[0].to(x.dtype)


@dataclass(frozen=True, eq=False)
class _Blocks:
    """A denoiser whose rows come in blocks; ``told``: of each block, for one row or for all of its rows."""

    denoiser: Denoiser[Point]
    conditions: Sequence[Condition]
    told: tuple[Mapping[str, Tensor], ...]

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        del cond
        rows = block_rows(len(x), self.conditions)
        names = self.told[0]
        told = {
            name: torch.cat([part[name].to(x.device).expand(rows, *part[name].shape[1:]) for part in self.told])
            for name in names
        }
        return self.denoiser(x, t, **told)


# --- schedulers ---------------------------------------------------------------------------------------------


def path_of(scheduler: Any) -> tuple[Schedule, Prediction]:
    """The path of a scheduler and what its model predicts there and is told.

    Raises `InputError` for a prediction that is not known.
    """
    config: Mapping[str, Any] = scheduler.config
    steps = int(config["num_train_timesteps"])
    alphas = getattr(scheduler, "alphas_cumprod", None)
    kind = str(config.get("prediction_type", _FLOW if alphas is None else "epsilon"))
    if kind == _FLOW or alphas is None:
        check_option("the prediction of a scheduler without alphas_cumprod", kind, (_FLOW,))
        return Cosine(s=0.0), OnFlow(steps)
    check_option("the scheduler's prediction_type", kind, (*PREDICTIONS, _FLOW))
    return DiscreteVP(tuple(alphas.double().clamp(min=_LEAST).tolist())), OnSteps(PREDICTIONS[kind], steps)


@dataclass(frozen=True)
class OnSteps:
    """A prediction whose network is told the step, ``steps`` t - 1."""

    prediction: Prediction
    steps: int

    def target(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        return self.prediction.target(alpha, sigma)

    def mean(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        return self.prediction.mean(alpha, sigma)

    def network_input(self, alpha: Tensor, sigma: Tensor, t: Tensor, /) -> tuple[Tensor | None, Tensor]:
        del alpha, sigma
        return None, (self.steps * t.double() - 1).clamp(min=0)


@dataclass(frozen=True)
class OnFlow:
    """eps - x0 of a network on the straight path, told ``steps`` s, at the same noise on any other path."""

    steps: int

    def target(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        return Flow().target(alpha, sigma)

    def mean(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        return Flow().mean(alpha, sigma)

    def network_input(self, alpha: Tensor, sigma: Tensor, t: Tensor, /) -> tuple[Tensor | None, Tensor]:
        del t
        total = alpha + sigma
        return 1 / total, self.steps * sigma / total


def _vae(pipeline: Any) -> Any:
    return getattr(pipeline, "vae", None)


def _units(vae: Any) -> tuple[float, float]:
    """(shift, scale) of latents: the U-net sees (latent - shift) scale."""
    return float(vae.config.get("shift_factor", None) or 0.0), float(vae.config.scaling_factor)
