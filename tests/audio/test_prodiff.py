"""ProDiff: its path and posterior against the published formulas, its losses, and a student of two steps."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from degauss.audio.acoustic import AcousticConfig, AcousticModel, Statistics
from degauss.audio.acoustic_data import Corpus, Item, collate
from degauss.audio.acoustic_training import DiffusionStage
from degauss.audio.framing import Sung
from degauss.audio.frontend import Batch
from degauss.audio.prodiff import (
    START,
    denoiser_of,
    distil,
    fit_teacher,
    prodiff_config,
    recipe,
    sample_mels,
    student_loss,
    teacher_loss,
    times,
)
from degauss.audio.shallow import at_time, draw
from degauss.audio.spectra import MelConfig
from degauss.audio.ssim import ssim
from degauss.core import InputError, LinearVP, Noise
from degauss.core.denoiser import expand
from degauss.core.distill import halve, target
from degauss.core.gaussian import ddim
from degauss.core.gaussian.exponential import ddim_table
from degauss.core.schedule import DiscreteVP
from degauss.core.train import TrainConfig

PHONES, MELS = ("a", "i", "u"), 12
CONFIG = AcousticConfig(
    PHONES, mel=MelConfig(n_mels=MELS), hidden=16, blocks=1, dropout=0.0, kernel=3, channels=24, layers=3
)


def published_betas(steps: int = 4, low: float = 0.1, high: float = 40.0) -> Tensor:
    """The noise schedule "vpsde" of the published code, for T + 1 betas."""
    n = steps + 1
    j = torch.arange(1, n + 1, dtype=torch.float64)
    return 1 - torch.exp(-low / n - 0.5 * (high - low) * (2 * j - 1) / n**2)


def item(number: int) -> Item:
    """A toy utterance: each phone has a level of its own, and a ridge that no one can foresee."""
    noise = Noise(number, [0])
    order = (noise.uniform(torch.empty(1, 4)) * 3).long()[0]
    durations = 4 + (noise.uniform(torch.empty(1, 4), draw=1) * 6).long()[0]
    frames = int(durations.sum())
    rows = torch.arange(MELS)[:, None] / MELS
    level = torch.repeat_interleave(order.float(), durations)
    ridge = noise.normal(torch.empty(1, 1, frames), draw=2)[0] * torch.sin(6 * rows)
    mel = -4 + 2 * torch.cos(2 * rows * (level + 1)) + ridge
    nothing = torch.zeros(4)
    sung = Sung(nothing, nothing, nothing.long())
    phones = tuple(PHONES[k] for k in order.tolist())
    f0 = 120 + 20 * torch.sin(torch.arange(frames) / 5)
    return Item(f"item-{number}", "voice", phones, durations, sung, torch.zeros(frames), f0, mel)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(tuple(map(item, range(24))), CONFIG.mel, "toy")


@pytest.fixture(scope="module")
def model(corpus: Corpus) -> AcousticModel:
    found = AcousticModel.new(CONFIG, corpus.statistics(CONFIG.voices))
    found.network.eval().requires_grad_(False)
    return found


@pytest.fixture(scope="module")
def batch(corpus: Corpus) -> Batch:
    return collate(corpus.items[:4], CONFIG)


# --- the path -------------------------------------------------------------------------------------------------


def test_published_betas_are_a_continuous_path() -> None:
    published = DiscreteVP.from_betas(published_betas())
    assert published.alpha_bar[:3] == pytest.approx([0.441, 0.039, 7e-4], rel=0.03)
    assert published.alpha_bar[3] < 1e-5
    alpha, _ = LinearVP(0.1, 40.0)(torch.arange(1, 6, dtype=torch.float64) / 5)
    assert published.alpha_bar == pytest.approx((alpha**2).tolist(), rel=1e-9)


def test_model_has_the_published_path_at_the_times_of_its_steps() -> None:
    alpha, sigma = prodiff_config(CONFIG).schedule(times(4))
    published = torch.tensor([*reversed(DiscreteVP.from_betas(published_betas()).alpha_bar[:4]), 1.0])
    torch.testing.assert_close((alpha**2).float(), published, atol=1e-4, rtol=0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert times(4).tolist() == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    assert torch.equal(halve(times(4)), times(2))


def test_ancestral_steps_are_the_published_posterior() -> None:
    betas = published_betas()
    bars = torch.cumprod(1 - betas, 0)
    table = ddim_table(LinearVP(0.1, 40.0), times(4), eta=1.0)
    for row, j in zip(table.rows, (3, 2, 1, 0), strict=True):
        before = bars[j - 1] if j else torch.tensor(1.0, dtype=torch.float64)
        on_x0 = betas[j] * before.sqrt() / (1 - bars[j])
        on_x = (1 - before) * (1 - betas[j]).sqrt() / (1 - bars[j])
        variance = betas[j] * (1 - before) / (1 - bars[j])
        assert row.weights[0] == pytest.approx(float(on_x0), rel=1e-6)
        assert row.state == pytest.approx(float(on_x), rel=1e-6, abs=1e-12)
        assert row.noise == pytest.approx(float(variance.sqrt()), rel=1e-6, abs=1e-9)


# --- similarity -----------------------------------------------------------------------------------------------


def speckle(*shape: int, seed: int = 0) -> Tensor:
    return 0.4 * Noise(seed, range(shape[0])).normal(torch.empty(*shape, dtype=torch.float64))


def test_similarity_is_the_published_one_away_from_edges() -> None:
    x = speckle(1, 30, 40)
    y = 0.6 * x + 0.3 * speckle(1, 30, 40, seed=1) + 0.1

    def blurred(values: Tensor) -> Any:
        return scipy.ndimage.gaussian_filter(values[0].numpy(), 1.5, radius=5, mode="constant")

    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x**2) - mean_x**2, blurred(y**2) - mean_y**2
    both = blurred(x * y) - mean_x * mean_y
    c1, c2 = 0.02**2, 0.06**2
    want = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    found: Any = ssim(x, y, torch.ones(1, 40, dtype=torch.float64))[0].numpy()
    np.testing.assert_allclose(found[5:-5, 5:-5], want[5:-5, 5:-5], rtol=1e-9)
    torch.testing.assert_close(ssim(x, x, torch.ones(1, 40)), torch.ones_like(x))


def test_similarity_prefers_the_livelier_of_two_that_are_equally_far() -> None:
    detail, other = 0.5 * speckle(1, 40, 200), 0.5 * speckle(1, 40, 200, seed=1)
    inside = torch.ones(1, 200, dtype=torch.float64)
    truth, pale, lively = 0.5 + detail, 0.5 + 0.5 * detail, 0.5 + detail + 0.5 * other
    errors = [float((mel - truth).abs().mean()) for mel in (pale, lively)]
    assert errors[0] == pytest.approx(errors[1], rel=0.03)
    found = [float(ssim(mel, truth, inside).mean()) for mel in (pale, lively)]
    assert found == pytest.approx([0.8, 0.89], abs=0.02)


def test_similarity_does_not_see_padding() -> None:
    x, y = speckle(2, 20, 30), speckle(2, 20, 30, seed=1)
    alone = ssim(x, y, torch.ones(2, 30, dtype=torch.float64))
    wide = [torch.cat([mel, torch.full((2, 20, 9), 7.0, dtype=torch.float64)], 2) for mel in (x, y)]
    inside = torch.cat([torch.ones(2, 30), torch.zeros(2, 9)], 1).double()
    torch.testing.assert_close(ssim(wide[0], wide[1], inside)[:, :, :30], alone)


# --- losses ---------------------------------------------------------------------------------------------------


class Knowing(torch.nn.Module):
    """A stage that says what it was made with, and remembers when it was asked."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[Tensor] = []

    def forward(self, batch: Batch, x: Tensor, t: Tensor) -> Tensor:
        self.asked.append(t)
        return self.answer


def test_teacher_is_asked_only_at_its_own_times(model: AcousticModel, batch: Batch) -> None:
    taught = denoiser_of(model)
    truth = taught.network.scale(batch.mel)
    knows = Knowing(truth)
    for first in range(0, 200, 4):
        loss = teacher_loss(taught, taught.network.scale, knows, batch, Noise(0, range(first, first + 4)))
        torch.testing.assert_close(loss, torch.zeros(4), atol=1e-5, rtol=0)
    asked, counts = torch.cat(knows.asked).unique(return_counts=True)
    assert asked.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert counts.tolist() == pytest.approx([50] * 4, rel=0.35)
    wrong = teacher_loss(taught, taught.network.scale, Knowing(truth + 0.2), batch, Noise(0, range(4)))
    assert bool((wrong > 0.1).all())


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_losses_do_not_depend_on_the_batch(model: AcousticModel, corpus: Corpus, which: str) -> None:
    taught = denoiser_of(model)
    taught.network.eval()
    stage = DiffusionStage(denoiser_of(model, seed=1).network).eval()
    # A new network says 0 whatever it sees.
    torch.nn.init.constant_(stage.wavenet.output_projection.weight, 0.02)
    loss = {"teacher": teacher_loss, "student": student_loss}[which]
    rows = [0, 1, 2, 3]
    with torch.no_grad():
        whole = loss(taught, stage.scale, stage, collate([corpus.items[k] for k in rows], CONFIG), Noise(0, rows))
        apart = [loss(taught, stage.scale, stage, collate([corpus.items[k]], CONFIG), Noise(0, [k])) for k in rows]
    assert bool((whole > 0).all())
    # Noise is keyed by place in the padded mel, so only the rows of full length have the same; here, the longest.
    frames = [corpus.items[k].mel.shape[1] for k in rows]
    longest = [k for k in rows if frames[k] == max(frames)]
    torch.testing.assert_close(whole[longest], torch.cat(apart)[longest], rtol=1e-4, atol=1e-5)


def test_student_is_asked_for_what_two_steps_ask_for(model: AcousticModel, batch: Batch) -> None:
    taught = denoiser_of(model)
    taught.network.eval().requires_grad_(False)
    torch.nn.init.constant_(taught.network.wavenet.output_projection.weight, 0.02)
    truth = taught.network.scale(batch.mel)
    noise = Noise(3, range(4))
    knows = Knowing(torch.zeros_like(truth))
    found = student_loss(taught, taught.network.scale, knows, batch, noise)
    t = knows.asked[0]
    assert set(t.double().round(decimals=6).tolist()) <= {0.8, 0.4}
    t = t.double().round(decimals=6)
    alpha, sigma = (expand(scale, truth) for scale in taught.schedule(t))
    x = alpha * truth + sigma * noise.normal(truth)
    wanted = target(taught.denoiser(taught.condition(batch)), taught.schedule, x, t, t - 0.2, (t - 0.4).clamp(min=0))
    inside = torch.arange(truth.shape[2]) < batch.durations.sum(1, keepdim=True)
    rows = [wanted[k][:, inside[k]].abs().mean() for k in range(4)]
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-4, atol=1e-6)


def test_only_the_student_learns(model: AcousticModel, batch: Batch) -> None:
    taught = denoiser_of(model)
    student = dataclasses.replace(taught, network=denoiser_of(model, seed=1).network)
    stage = DiffusionStage(student.network)
    student_loss(taught, stage.scale, stage, batch, Noise(0, range(4))).mean().backward()
    assert all(weight.grad is None for weight in taught.network.parameters())
    assert all(weight.grad is None for weight in student.network.frontend.parameters())
    assert student.network.wavenet.output_projection.weight.grad is not None


# --- models ---------------------------------------------------------------------------------------------------


def test_new_denoiser_keeps_the_front_end(model: AcousticModel, batch: Batch) -> None:
    taught = denoiser_of(model)
    assert taught.config.prediction == "x0"
    assert (taught.facts.boundary, taught.facts.solver, taught.facts.steps) == (START, "ancestral", 4)
    assert torch.equal(taught.condition(batch), model.condition(batch))
    assert not any(weight.requires_grad for weight in taught.network.frontend.parameters())
    assert all(weight.requires_grad for weight in taught.network.wavenet.parameters())


def settings(out: Path, steps: int) -> TrainConfig:
    return recipe(out, steps=steps, batch=8, lr=3e-3, device="cpu")


@pytest.fixture(scope="module")
def taught(model: AcousticModel, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> AcousticModel:
    return fit_teacher(model, corpus, settings(tmp_path_factory.mktemp("teacher"), 150))


def test_student_takes_two_steps_for_four(taught: AcousticModel, corpus: Corpus, tmp_path: Path) -> None:
    student = distil(taught, corpus, settings(tmp_path / "student", 150))
    condition = taught.condition(collate(corpus.items[:8], CONFIG))
    assert torch.equal(student.condition(collate(corpus.items[:8], CONFIG)), condition)

    def drawn(model: AcousticModel, steps: int) -> Tensor:
        return draw(model, condition, at_time(START), solver=ddim(), steps=steps).mel

    wanted = drawn(taught, 4)
    gap, naive = ((mel - wanted).abs().mean() for mel in (drawn(student, 2), drawn(taught, 2)))
    assert float(gap) < 0.8 * float(naive)

    posterior = sample_mels(student, condition, 2, seed=1)
    assert posterior.evaluations == (2,) * 8
    alone = sample_mels(student, condition[2:3], 2, seed=1, samples=[2])
    length = int(corpus.items[2].mel.shape[1])
    torch.testing.assert_close(alone.mel[0, :, :length], posterior.mel[2, :, :length], rtol=1e-4, atol=1e-5)
    assert not torch.equal(sample_mels(student, condition, 2, seed=2).mel, posterior.mel)
    # What is written is a model like any other.
    again = AcousticModel.load(tmp_path / "student" / "model")
    assert (again.facts.boundary, again.facts.solver, again.facts.steps) == (START, "ancestral", 2)
    assert torch.equal(sample_mels(again, condition, 2, seed=1).mel, posterior.mel)


def test_where_a_run_starts_the_auxiliary_mel_is_as_good_as_absent(taught: AcousticModel, corpus: Corpus) -> None:
    condition = taught.condition(collate(corpus.items[:2], CONFIG))
    found = sample_mels(taught, condition, 4).mel
    other = dataclasses.replace(taught)
    blank = partial(torch.zeros, 1, MELS)
    object.__setattr__(other, "auxiliary", lambda condition: blank(condition.shape[2]))
    without = draw(other, condition, at_time(START), solver=ddim(eta=1.0), steps=4).mel
    assert float((found - without).abs().max()) < 0.05


def test_only_prodiff_models_are_teachers(model: AcousticModel, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ProDiff model"):
        distil(model, corpus, settings(tmp_path, 1))


def test_statistics_survive(model: AcousticModel, taught: AcousticModel) -> None:
    found = Statistics(taught.network.scale.low, taught.network.scale.width, taught.network.frontend.voice_pitch)
    assert torch.equal(found.low, model.network.scale.low)
    assert torch.equal(found.high, model.network.scale.width)
    assert torch.equal(found.voice_pitch, model.network.frontend.voice_pitch)
