"""Pipelines of diffusers as priors, on tiny U-nets and VAEs of the true classes with random weights."""

from __future__ import annotations

import importlib.util
import zlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from degauss.core.errors import InputError
from degauss.threed.diffusers_prior import DiffusersPrior, ImageToView, MultiView, direction_words, path_of
from degauss.threed.prior import Condition, HasNetwork
from degauss.threed.views import Views

diffusers = pytest.importorskip("diffusers")

WIDTH = 8
"""Of the text's embedding."""


def seeded(build: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def unet(**changes: Any) -> Any:
    """The class of Stable Diffusion's U-nets, 3 thousand times smaller."""
    config = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return seeded(lambda: diffusers.UNet2DConditionModel(**{**config, **changes}))


def xl_unet() -> Any:
    return unet(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 5
    )


def vae(**changes: Any) -> Any:
    return seeded(
        lambda: diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=16,
            **changes,
        )
    )


def words(prompt: str, size: tuple[int, ...]) -> Tensor:
    """An embedding that depends on the text."""
    return torch.randn(size, generator=torch.Generator().manual_seed(zlib.crc32(prompt.encode())))


class Pipeline:
    """What a prior uses of a pipeline, with a text encoder of no weights; counts what it encodes."""

    def __init__(self, unet: Any, vae: Any, scheduler: Any, xl: bool = False) -> None:
        self.unet, self.vae, self.scheduler, self.xl = unet, vae, scheduler, xl
        self.encoded: list[str] = []

    def encode_prompt(
        self, prompt: str, device: Any, num_images_per_prompt: int, do_classifier_free_guidance: bool
    ) -> tuple[Any, ...]:
        assert not do_classifier_free_guidance
        self.encoded.append(prompt)
        text = words(prompt, (num_images_per_prompt, 3, WIDTH)).to(device)
        return (text, None, words(prompt, (1, 5)), None) if self.xl else (text, None)


def scheduler(kind: str = "epsilon", **changes: Any) -> Any:
    return diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=kind,
        clip_sample=False,
        set_alpha_to_one=False,
        **changes,
    )


def stable(kind: str = "epsilon") -> Pipeline:
    return Pipeline(unet(), vae(), scheduler(kind))


def latents(rows: int, channels: int = 4) -> Tensor:
    return torch.randn(rows, channels, 8, 8, generator=torch.Generator().manual_seed(rows))


def at(step: int) -> Tensor:
    """The time of a step, counted from 0."""
    return torch.tensor((step + 1) / 1000, dtype=torch.float64)


def views(*azimuths: float, elevation: float = 20.0) -> Views:
    azimuth = torch.tensor(azimuths)
    return Views(azimuth, torch.full_like(azimuth, elevation))


# --- against diffusers' own steps ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("step", [20, 501, 979])
def test_guided_answers_are_the_clean_samples_of_diffusers(kind: str, step: int) -> None:
    """The guidance of its pipelines and the ``pred_original_sample`` of its scheduler, number for number."""
    pipeline, x, guidance = stable(kind), latents(2), 7.5
    both = torch.cat((words("", (1, 3, WIDTH)), words("a cow", (1, 3, WIDTH)))).repeat_interleave(2, 0)
    with torch.no_grad():
        weak, strong = pipeline.unet(torch.cat((x, x)), step, encoder_hidden_states=both).sample.chunk(2)
    pipeline.scheduler.set_timesteps(1000)
    expected = pipeline.scheduler.step(weak + guidance * (strong - weak), step, x).pred_original_sample
    found = DiffusersPrior.of(pipeline).denoiser("a cow", guidance)(x, at(step)).mean
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-3)


def test_the_schedule_is_that_of_the_scheduler() -> None:
    made = scheduler()
    schedule, _ = path_of(made)
    alpha, sigma = schedule((torch.arange(1000, dtype=torch.float64) + 1) / 1000)
    torch.testing.assert_close(alpha**2, made.alphas_cumprod.double())
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))


def test_a_schedule_that_ends_in_pure_noise_is_one_too() -> None:
    schedule, _ = path_of(scheduler("v_prediction", rescale_betas_zero_snr=True))
    assert float(schedule(torch.tensor(1.0)).alpha) < 1e-3


def test_the_unet_is_told_the_step() -> None:
    pipeline, told = stable(), []
    pipeline.unet.register_forward_pre_hook(lambda _, inputs: told.append(inputs[1]))
    denoiser = DiffusersPrior.of(pipeline).unconditional()
    denoiser(latents(2), at(500))
    denoiser(latents(2), torch.stack((at(0), at(999))))
    torch.testing.assert_close(told[0].double(), torch.tensor([500.0, 500.0]).double())
    torch.testing.assert_close(told[1].double(), torch.tensor([0.0, 999.0]).double(), atol=1e-4, rtol=0)


def test_a_flow_model_is_asked_on_its_own_path() -> None:
    """x_s = (1 - s) x0 + s eps, whose velocity is eps - x0: the clean sample is x_s - s F."""
    pipeline = Pipeline(unet(), vae(), diffusers.FlowMatchEulerDiscreteScheduler())
    prior, x, t = DiffusersPrior.of(pipeline), latents(2), torch.tensor(0.6, dtype=torch.float64)
    alpha, sigma = (float(scale) for scale in prior.schedule(t))
    assert alpha**2 + sigma**2 == pytest.approx(1.0)
    s = sigma / (alpha + sigma)
    x_s = x / (alpha + sigma)
    text = words("a cow", (1, 3, WIDTH)).expand(2, -1, -1)
    with torch.no_grad():
        velocity = pipeline.unet(x_s, 1000 * s, encoder_hidden_states=text).sample
    torch.testing.assert_close(prior.denoiser("a cow")(x, t).mean, x_s - s * velocity, atol=1e-5, rtol=1e-4)


def test_a_prediction_that_is_not_known_is_refused() -> None:
    strange = SimpleNamespace(
        config={"num_train_timesteps": 10, "prediction_type": "score"}, alphas_cumprod=torch.ones(2)
    )
    with pytest.raises(InputError, match="prediction_type must be one of 'epsilon', 'v_prediction', 'sample'"):
        path_of(strange)


# --- texts, blocks, images ----------------------------------------------------------------------------------


def test_a_text_is_embedded_once() -> None:
    pipeline = stable()
    prior = DiffusersPrior.of(pipeline, negative="blurry")
    for _ in range(2):
        denoiser = prior.denoiser("a cow", 7.5)
        for step in (10, 20):
            denoiser(latents(1), at(step))
    assert pipeline.encoded == ["a cow", "blurry"]


def test_conditions_share_a_batch_and_do_not_mix() -> None:
    prior, x = DiffusersPrior.of(stable()), latents(6)
    t = torch.stack([at(step) for step in (10, 200, 300, 500, 700, 900)])
    conditions = Condition("a cow"), Condition(None), Condition("a mug")
    together = prior.together(conditions)(x, t).mean
    alone = [
        prior.together((under,))(x[k : k + 2], t[k : k + 2]).mean
        for k, under in zip((0, 2, 4), conditions, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)
    assert (alone[0] - prior.together((Condition("a mug"),))(x[:2], t[:2]).mean).abs().max() > 1e-4


def test_the_side_is_said_in_words_row_by_row() -> None:
    pipeline = stable()
    prior = DiffusersPrior.of(pipeline, prompt_of_view=direction_words)
    x, seen = latents(3), views(0, 180, 30)
    found = prior.denoiser("a cow", views=seen)(x, at(400)).mean
    assert pipeline.encoded == ["a cow, front view", "a cow, back view"]
    plain = replace(prior, prompt_of_view=None)
    torch.testing.assert_close(
        found[1:2], plain.denoiser("a cow, back view")(x[1:2], at(400)).mean, atol=1e-5, rtol=1e-4
    )
    # The unconditional answer has no side.
    assert bool((prior.unconditional(seen)(x, at(400)).mean == plain.unconditional()(x, at(400)).mean).all())


@pytest.mark.parametrize(
    ("azimuth", "elevation", "side"),
    [
        (0, 0, "front"),
        (-40, 0, "front"),
        (350, 0, "front"),
        (90, 0, "side"),
        (-100, 10, "side"),
        (200, 0, "back"),
        (0, 75, "overhead"),
    ],
)
def test_sides_have_names(azimuth: float, elevation: float, side: str) -> None:
    assert direction_words("a cow", azimuth, elevation) == f"a cow, {side} view"


def test_images_are_encoded_as_the_vae_does_and_back() -> None:
    pipeline = Pipeline(unet(), vae(shift_factor=0.1, scaling_factor=0.5), scheduler())
    prior = DiffusersPrior.of(pipeline)
    assert (prior.size, prior.channels, prior.pixels, prior.vocabulary) == (8, 4, 16, None)
    rgb = torch.rand(2, 16, 16, 3)
    x0 = prior.encode(rgb, torch.zeros_like(rgb))
    with torch.no_grad():
        latent = pipeline.vae.encode(2 * rgb.movedim(-1, 1) - 1).latent_dist.mode()
        image = pipeline.vae.decode(latent).sample
    torch.testing.assert_close(x0, (latent - 0.1) * 0.5)
    torch.testing.assert_close(prior.decode(x0), (image / 2 + 0.5).clamp(0, 1).movedim(1, -1), atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_render_and_no_weight() -> None:
    pipeline = stable()
    prior = DiffusersPrior.of(pipeline)
    rgb = torch.rand(1, 32, 32, 3, requires_grad=True)
    x0 = prior.encode(rgb, torch.zeros_like(rgb))
    assert x0.shape == (1, 4, 8, 8)
    prior.denoiser("a cow", 7.5)(x0, at(300)).mean.square().sum().backward()
    assert rgb.grad is not None
    assert bool((rgb.grad.abs().amax((0, 3)) > 0).all())
    assert not any(weight.requires_grad for part in (pipeline.unet, pipeline.vae) for weight in part.parameters())
    assert isinstance(prior, HasNetwork)


def test_half_precision_answers_in_the_precision_of_the_state() -> None:
    pipeline = stable()
    pipeline.unet.to(torch.bfloat16)
    answer = DiffusersPrior.of(pipeline).denoiser("a cow", 2.0)(latents(1), at(300)).mean
    assert answer.dtype == torch.float32
    assert bool(answer.isfinite().all())


def test_a_model_of_pixels_needs_no_vae() -> None:
    prior = DiffusersPrior.of(Pipeline(unet(in_channels=3, out_channels=3), None, scheduler()))
    rgb = torch.rand(1, 8, 8, 3)
    torch.testing.assert_close(prior.decode(prior.encode(rgb, torch.zeros_like(rgb))), rgb)


# --- other models -------------------------------------------------------------------------------------------


def test_sdxl_is_told_pooled_text_and_sizes() -> None:
    pipeline = Pipeline(xl_unet(), vae(), scheduler(), xl=True)
    prior, x = DiffusersPrior.of(pipeline), latents(2)
    found = prior.denoiser("a cow")(x, at(300)).mean
    added = {
        "text_embeds": words("a cow", (1, 5)).expand(2, -1),
        "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(2, -1),
    }
    text = words("a cow", (1, 3, WIDTH)).expand(2, -1, -1)
    with torch.no_grad():
        eps = pipeline.unet(x, 300, encoder_hidden_states=text, added_cond_kwargs=added).sample
    pipeline.scheduler.set_timesteps(1000)
    expected = pipeline.scheduler.step(eps, 300, x).pred_original_sample
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-3)


class CameraUNet(nn.Module):
    """The signature of MVDream's U-net: keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.config = SimpleNamespace(sample_size=8, out_channels=4)
        self.dtype = torch.float32
        self.told: dict[str, Any] = {}

    def forward(self, x: Tensor, t: Tensor, **told: Any) -> tuple[Tensor]:
        self.told = told
        return (self.scale * x,)


def test_a_multi_view_model_is_told_cameras_with_z_up() -> None:
    pipeline = Pipeline(CameraUNet(), None, scheduler())
    prior = DiffusersPrior.of(pipeline, extra=MultiView())
    prior.denoiser("a cow", 5.0, views(0, 90, 180, 270, elevation=0.0))(latents(4), at(300))
    told = pipeline.unet.told
    assert told["num_frames"] == 4
    assert told["camera"].shape == (8, 16)
    pose = told["camera"].view(8, 4, 4)[:4]
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    torch.testing.assert_close(pose[:, :3, 3], expected, atol=1e-6, rtol=0)
    up = torch.tensor([0.0, 0, 1]).expand(4, -1)
    torch.testing.assert_close(pose[:, :3, 1], up, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(pose), torch.ones(4))
    with pytest.raises(ValueError, match="3 views are no whole number of objects of 4"):
        prior.denoiser("a cow", views=views(0, 1, 2))


def test_an_image_model_is_told_the_way_from_its_photograph() -> None:
    pipeline = Pipeline(unet(in_channels=8), vae(), scheduler())
    project = seeded(lambda: nn.Linear(WIDTH + 4, WIDTH))
    photograph = ImageToView(latents(1), torch.ones(1, 1, WIDTH), project, views(30, elevation=10.0))
    prior, x = DiffusersPrior.of(pipeline, extra=photograph), latents(2)
    seen = Views(torch.tensor([30.0, 120.0]), torch.tensor([10.0, 40.0]))
    found = prior.denoiser("this", views=seen)(x, at(300)).mean
    way = torch.tensor([[0.0, 0, 1, 0], [-torch.pi / 6, 1, 0, 0]])[:, None]
    with torch.no_grad():
        text = project(torch.cat((torch.ones(2, 1, WIDTH), way), -1))
        eps = pipeline.unet(torch.cat((x, latents(1).expand(2, -1, -1, -1)), 1), 300, encoder_hidden_states=text).sample
        nothing = pipeline.unet(torch.cat((x, 0 * x), 1), 300, encoder_hidden_states=0 * text).sample
    pipeline.scheduler.set_timesteps(1000)
    for answer, told in ((found, eps), (prior.unconditional(seen)(x, at(300)).mean, nothing)):
        expected = pipeline.scheduler.step(told, 300, x).pred_original_sample
        torch.testing.assert_close(answer, expected, atol=2e-4, rtol=2e-3)


# --- what it refuses ----------------------------------------------------------------------------------------


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        DiffusersPrior.of(stable()).denoiser("  ")


def test_a_pipeline_without_a_unet_is_refused() -> None:
    with pytest.raises(InputError, match="SimpleNamespace has none"):
        DiffusersPrior.of(SimpleNamespace(vae=None))


# --- the true pipelines -------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
def test_a_step_of_the_true_pipeline_is_a_step_of_ours() -> None:
    """One step of StableDiffusionPipeline from t to clean data at guidance 7.5, with a tiny CLIP."""
    transformers = pytest.importorskip("transformers")

    class Tokens:
        """A tokenizer of letters."""

        model_max_length = 77
        added_tokens_encoder: dict[str, int] = {}  # noqa: RUF012

        def tokenize(self, text: str) -> list[str]:
            return list(text)

        def __call__(self, text: Any, **options: Any) -> Any:
            rows = [text] if isinstance(text, str) else text
            ids = torch.full((len(rows), 77), 49)
            for row, one in zip(ids, rows, strict=True):
                row[: len(one)] = torch.tensor([ord(letter) % 48 for letter in one], dtype=torch.long)
            return SimpleNamespace(input_ids=ids, attention_mask=None)

        def batch_decode(self, ids: Tensor) -> list[str]:
            return [""] * len(ids)

    config = transformers.CLIPTextConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=47,
        eos_token_id=49,
        pad_token_id=49,
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=seeded(lambda: transformers.CLIPTextModel(config)).eval(),
        tokenizer=None,
        unet=unet(),
        scheduler=scheduler(steps_offset=1, timestep_spacing="trailing"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.tokenizer = Tokens()
    pipeline.set_progress_bar_config(disable=True)
    prior = DiffusersPrior.of(pipeline)
    seen: list[Tensor] = []

    def keep(pipe: Any, i: int, t: Tensor, kept: dict[str, Any]) -> dict[str, Any]:
        seen.extend((t, kept["latents"]))
        return kept

    start = latents(1)
    pipeline(
        "a cow",
        num_inference_steps=1,
        guidance_scale=7.5,
        latents=start,
        output_type="latent",
        callback_on_step_end=keep,
    )
    t, end = seen
    alpha_end = pipeline.scheduler.final_alpha_cumprod
    mean = prior.denoiser("a cow", 7.5)(start, at(int(t))).mean
    alpha, sigma = prior.schedule(at(int(t)))
    eps = (start - float(alpha) * mean) / float(sigma)
    expected = alpha_end.sqrt() * mean + (1 - alpha_end).sqrt() * eps
    torch.testing.assert_close(end, expected, atol=2e-4, rtol=2e-3)
