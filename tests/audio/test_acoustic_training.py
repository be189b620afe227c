"""Training: losses whose value is known, stages that resume, and a small model that learns what it should."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from degauss.audio.acoustic import AcousticConfig, AcousticModel, Prediction, frames_of
from degauss.audio.acoustic_data import Batches, Corpus, collate, read_corpus
from degauss.audio.acoustic_training import (
    AuxiliaryStage,
    DiffusionStage,
    Recipe,
    Said,
    auxiliary_loss,
    auxiliary_losses,
    diffusion_loss,
    fit,
)
from degauss.audio.frontend import Batch, midi_of
from degauss.audio.shallow import at_time, draw
from degauss.audio.spectra import MelConfig
from degauss.audio.synthetic_corpus import write_sung_vowels
from degauss.core.denoiser import expand
from degauss.core.errors import InputError
from degauss.core.gaussian import dpmpp
from degauss.core.noise import Noise
from degauss.core.train import train

MEL = MelConfig(n_fft=512, n_mels=20)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    write_sung_vowels(folder, 4)
    return read_corpus(folder, MEL)


def config(corpus: Corpus, prediction: Prediction = "v", **sizes: int) -> AcousticConfig:
    small = {"hidden": 16, "blocks": 1, "channels": 8, "layers": 2} | sizes
    return AcousticConfig(corpus.phones, corpus.voices, MEL, dropout=0.0, prediction=prediction, **small)


@pytest.fixture
def model(corpus: Corpus) -> AcousticModel:
    return AcousticModel.new(config(corpus), corpus.statistics(corpus.voices))


@pytest.fixture
def batch(corpus: Corpus) -> Batch:
    return collate(corpus.items, config(corpus))


# --- losses ---


def perfect(batch: Batch, x0: Tensor) -> Said:
    reference = torch.full_like(batch.f0, 57.0)
    # Nonsense where there is no voice, and in all padding: none of it may count.
    semitones = torch.where(batch.f0 > 0, midi_of(batch.f0) - reference, 99.0)
    odds = torch.where(batch.f0 > 0, 50.0, -50.0)
    inside = torch.arange(batch.f0.shape[1]) < batch.durations.sum(1, keepdim=True)
    odds = torch.where(inside, odds, 50.0)
    mel = torch.where(inside[:, None], x0, 9.0)
    durations = torch.where(batch.phones > 0, torch.log1p(batch.durations.float()), 7.0)
    return Said(durations, semitones, odds, reference, mel)


def test_the_right_answer_costs_nothing(model, batch):
    x0 = model.network.scale(batch.mel)
    losses = auxiliary_losses(lambda _: perfect(batch, x0), batch, x0)
    assert set(losses) == {"duration", "pitch", "voicing", "mel"}
    for value in losses.values():
        assert value.shape == (4,)
        assert float(value.max()) < 1e-6


@pytest.mark.parametrize(
    ("change", "name", "cost"),
    [
        (lambda said: said._replace(semitones=said.semitones + 12), "pitch", 1.0),
        (lambda said: said._replace(log_durations=said.log_durations + 0.5), "duration", 0.25),
        (lambda said: said._replace(mel=said.mel - 0.3), "mel", 0.3),
        (lambda said: said._replace(voiced=torch.zeros_like(said.voiced)), "voicing", 0.6931),
    ],
)
def test_a_known_error_has_a_known_cost(model, batch, change, name, cost):
    x0 = model.network.scale(batch.mel)
    losses = auxiliary_losses(lambda _: change(perfect(batch, x0)), batch, x0)
    for part, value in losses.items():
        assert value.tolist() == pytest.approx([cost if part == name else 0.0] * 4, abs=1e-4)


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_a_perfect_denoiser_costs_nothing_and_one_that_says_0_the_power_of_its_target(corpus, batch, prediction):
    model = AcousticModel.new(config(corpus, prediction), corpus.statistics(corpus.voices))
    noise, x0 = Noise(0, range(4)), model.network.scale(batch.mel)

    def exact(_: Batch, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (expand(scale, x) for scale in model.schedule(t))
        eps = (x - alpha * x0) / sigma
        return x0 if prediction == "x0" else alpha * eps - sigma * x0

    assert float(diffusion_loss(model, model.network.scale, exact, batch, noise).max()) < 1e-6
    silent = diffusion_loss(model, model.network.scale, lambda b, x, t: torch.zeros_like(x), batch, noise)
    assert bool((silent > 0.1).all())


@torch.no_grad()
def test_neither_loss_depends_on_the_batch(model, corpus):
    """A recording beside a longer one costs what it costs alone."""
    lengths = [item.mel.shape[1] for item in corpus.items]
    short = lengths.index(min(lengths))
    both, alone = collate(corpus.items, model.config), collate([corpus.items[short]], model.config)
    assert both.f0.shape[1] > alone.f0.shape[1]
    stage, scale = AuxiliaryStage(model.network).eval(), model.network.scale
    whole, own = (auxiliary_losses(stage, one, scale(one.mel)) for one in (both, alone))
    for name, value in own.items():
        assert float(whole[name][short]) == pytest.approx(float(value[0]), abs=1e-5)


# --- stages ---


def recipe(out: Path, **changes: int) -> Recipe:
    short = Recipe(out, auxiliary_steps=4, steps=4, batch=2, save_every=2, evaluate_every=2, device="cpu")
    return replace(short, **changes)


def test_the_second_stage_leaves_the_first_as_it_was(model, corpus, tmp_path):
    stage = DiffusionStage(model.network)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    loss = partial(diffusion_loss, model, stage.scale)
    train(stage, loss, Batches(corpus, model.config), recipe(tmp_path).stage("diffusion", 3))
    after = model.network.state_dict()
    changed = {name.split(".")[0] for name, value in after.items() if not value.equal(before[name])}
    assert changed == {"wavenet"}
    stage.train()
    assert stage.wavenet.training
    assert not stage.frontend.training


def test_a_run_that_was_cut_goes_on_exactly(corpus, tmp_path):
    held = corpus.split(1)[1]
    whole = fit(config(corpus), corpus, held, recipe(tmp_path / "whole"))
    # The first run ends in the middle of each stage: the second one finds its checkpoints.
    first = AcousticModel.new(config(corpus), corpus.statistics(corpus.voices))
    stage = AuxiliaryStage(first.network)
    settings = recipe(tmp_path / "cut").stage("auxiliary", 4)
    train(stage, partial(auxiliary_loss, stage.scale), Batches(corpus, first.config), replace(settings, steps=4))
    for left in sorted((tmp_path / "cut" / "auxiliary" / "checkpoints").iterdir())[1:]:
        for file in left.iterdir():
            file.unlink()
        left.rmdir()
    cut = fit(config(corpus), corpus, held, recipe(tmp_path / "cut"))
    for name, value in whole.network.state_dict().items():
        assert torch.equal(cut.network.state_dict()[name], value), name


def test_what_a_run_leaves(corpus, tmp_path):
    held = corpus.split(1)[1]
    model = fit(config(corpus), corpus, held, recipe(tmp_path / "run"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"auxiliary", "diffusion", "model", "mels.png"}
    assert (tmp_path / "run" / "mels.png").read_bytes().startswith(b"\x89PNG")
    assert model.facts.sings
    assert model.facts.hashes == {"data": corpus.digest}
    assert set(model.facts.ranges) == {"voice"}
    parts = {"validation", "validation_mel", "validation_pitch"}
    for stage, names in (("auxiliary", parts), ("diffusion", {"validation"})):
        lines = [json.loads(line) for line in (tmp_path / "run" / stage / "metrics.jsonl").read_text().splitlines()]
        seen = [line for line in lines if "validation" in line]
        assert [line["step"] for line in seen] == [2, 4]
        assert names <= seen[0].keys()


def test_a_model_with_a_boundary_is_not_replaced(corpus, tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "boundary.json").write_text("{}")
    with pytest.raises(InputError, match="has a boundary that was fitted to it; expected another folder for the run"):
        fit(config(corpus), corpus, None, recipe(tmp_path / "run"))
    assert not (tmp_path / "run" / "auxiliary").exists()


def test_recipes_that_are_none(tmp_path):
    for wrong in ({"steps": 0}, {"auxiliary_steps": 0}, {"batch": 0}):
        with pytest.raises(InputError, match=r"steps|batch_size"):
            recipe(tmp_path, **wrong)


# --- learning ---


def test_the_first_stage_learns(corpus, tmp_path):
    learnt = config(corpus, hidden=32)
    model = fit(learnt, corpus, None, replace(recipe(tmp_path, auxiliary_steps=80, steps=1, batch=4), lr=4e-3))
    batch = collate(corpus.items, model.config)
    x0, inside = model.network.scale(batch.mel), frames_of(model.condition(batch))[:, None]
    mean = (x0 * inside).sum((0, 2), keepdim=True) / inside.sum()
    error = ((model.auxiliary(model.condition(batch)) - x0).abs() * inside).mean()
    assert float(error) < 0.6 * float(((mean - x0).abs() * inside).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    "prediction",
    ["x0", pytest.param("v", marks=pytest.mark.xfail(reason="it closes less than half of the gap: .35 to .65"))],
)
def test_diffusion_brings_back_what_the_decoder_blurs(corpus, tmp_path, prediction):
    """The power of the change from frame to frame, over that of the recordings: 1 is as lively as they are."""
    sizes = config(corpus, prediction, hidden=32, channels=64, layers=3)
    learn = Recipe(tmp_path, auxiliary_steps=150, steps=800, batch=4, lr=4e-3, device="cpu")
    model = fit(sizes, corpus, None, learn)
    batch = collate(corpus.items, model.config)
    condition = model.condition(batch)
    inside = frames_of(condition)[:, None, 1:]
    truth = model.network.scale(batch.mel)

    def liveliness(mel: Tensor) -> float:
        power = (mel.diff(dim=2) ** 2 * inside).sum() / (truth.diff(dim=2) ** 2 * inside).sum()
        return float(power)

    blurred = liveliness(model.auxiliary(condition))
    sharp = liveliness(draw(model, condition, at_time(0.3), solver=dpmpp(2), steps=20).mel)
    assert blurred < 0.6
    assert abs(sharp - 1) < 0.5 * abs(blurred - 1)
