"""One generator for two words: what it starts from, that it learns both apart, and that it resumes to the last bit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.core.schedule import Cosine
from degauss.threed.amortised import AmortisedConfig, Batch, Distilled, Draw, distil
from degauss.threed.cameras import Cameras
from degauss.threed.embedded_prior import EmbeddedConfig, EmbeddedPrior
from degauss.threed.generator import Generator, GeneratorConfig, load_generator, save_generator
from degauss.threed.methods import MethodConfig
from degauss.threed.oracle_views import OracleViews
from degauss.threed.prior import Prior
from degauss.threed.quality import compare_views, held_out_views
from degauss.threed.rendering import render

from ._little import SIZE, box, oracle_orbits

WORDS = ("red", "green")
MESHES = {"red": box(half=0.35), "green": box((0.1, 0.8, 0.2), half=0.2)}


def small(**other: object) -> AmortisedConfig:
    """A generator of 16^3 voxels for two words."""
    generator = GeneratorConfig(WORDS, (16, 8), 16, samples=16)
    config = {"steps": 4, "words_a_step": 2, "views": 2, "size": SIZE, "orbits": oracle_orbits()}
    return AmortisedConfig(generator, **{**config, **other})  # type: ignore[arg-type]


def known() -> Prior:
    """The exact prior of both boxes."""
    azimuth = torch.arange(16.0).repeat(3) * 22.5
    elevation = torch.tensor((0.0, 15.0, 40.0)).repeat_interleave(16)
    cameras = Cameras.orbit(azimuth, elevation, size=SIZE)
    return OracleViews.of(Cosine(), MESHES, cameras, 6, 8.0, 0.05)


def learned() -> Prior:
    """A prior with a network, which has learned nothing."""
    prior = EmbeddedPrior.new(EmbeddedConfig(WORDS, size=SIZE))
    prior.network.requires_grad_(False)
    return prior


def numbers(generator: Generator) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in generator.parameters()])


# --- the network ------------------------------------------------------------------------------------------


def test_every_word_starts_as_the_same_ball_and_has_gradients_of_its_own() -> None:
    generator = Generator(small().generator)
    lattices = generator(torch.tensor([0, 1]))
    start = generator.rendering.voxels
    assert lattices.shape == (2, 4, 16, 16, 16)
    assert torch.equal(lattices[0, 0], start.raw)
    assert torch.equal(lattices[1, 1:], start.colour)
    torch.nn.init.normal_(generator.last.weight)
    one, other = generator(torch.tensor([0, 1]))
    assert float((one - other).detach().abs().max()) > 0.1
    one.sum().backward()
    gradient = generator.table.weight.grad
    assert gradient is not None
    assert float(gradient[0].abs().max()) > 0
    assert float(gradient[1].abs().max()) == 0
    assert start.raw.grad is None


def test_a_lattice_is_rendered_as_the_voxels_that_it_becomes() -> None:
    generator = Generator(small().generator)
    torch.nn.init.normal_(generator.last.weight)
    cameras = Cameras.orbit(torch.tensor([0.0, 120.0]), 20.0, size=SIZE)
    (lattice,) = generator(torch.tensor([1]))
    seen = generator.render(lattice, cameras, torch.ones(3))
    alone = render(generator.scene("green"), cameras)
    for one, other in zip(seen, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert seen.rgb.requires_grad


def test_a_generator_is_kept_and_read(tmp_path: Path) -> None:
    generator = Generator(small().generator, seed=3)
    torch.nn.init.normal_(generator.last.weight)
    save_generator(tmp_path / "g", generator)
    again = load_generator(tmp_path / "g")
    assert again.config == generator.config
    assert torch.equal(again.scene("red").raw, generator.scene("red").raw)
    with pytest.raises(InputError, match="the word"):
        again.scene("blue")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: GeneratorConfig(()), "one or more words"),
        (lambda: GeneratorConfig(("a", "a")), "all different"),
        (lambda: GeneratorConfig(("a",), (10,)), "multiples of 4"),
        (lambda: small(views=0), "views must be at least 1"),
    ],
)
def test_what_cannot_be(wrong, says: str) -> None:
    with pytest.raises(InputError, match=says):
        wrong()


# --- its training -----------------------------------------------------------------------------------------


def test_words_come_in_turn_and_a_batch_knows_its_step() -> None:
    draw, config = Draw(small(words_a_step=1)), small(words_a_step=1)
    batches = [draw(range(step * config.renders, (step + 1) * config.renders)) for step in range(6)]
    assert [batch.step for batch in batches] == list(range(6))
    assert all(len(set(batch.words)) == 1 and len(batch.words) == 2 for batch in batches)
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        assert {first.words[0], second.words[0]} == {0, 1}


def test_the_loss_is_a_mean_over_renders_whatever_their_grouping() -> None:
    """Rows are their own: the loss of a batch is that of its parts."""
    model = Distilled(small(), known())
    noise = Noise(7, range(4))
    whole = model(Batch(1, (0, 0, 1, 1)), noise)
    parts = [model(Batch(1, (label, label)), noise.take(rows)) for label, rows in ((0, [0, 1]), (1, [2, 3]))]
    assert float(whole.detach()) == pytest.approx(float(sum(parts).detach()) / 2, rel=1e-5)  # type: ignore[union-attr]


def test_it_learns_both_words_apart(tmp_path: Path) -> None:
    views, looks = held_out_views(SIZE, 4), list[list[float]]()

    def scores(generator: Generator, of: tuple[str, ...]) -> list[float]:
        """Each word's scene beside the mesh of a word."""
        return [
            compare_views(generator.scene(word), MESHES[mesh], views).psnr for word, mesh in zip(WORDS, of, strict=True)
        ]

    def look(generator: Generator) -> dict[str, float]:
        looks.append(scores(generator, WORDS))
        return {"psnr": min(looks[-1])}

    config = small(steps=60, method=MethodConfig("sds"))
    before = scores(Generator(config.generator), WORDS)
    generator = distil(config, known(), tmp_path, look)
    for start, own, other in zip(before, looks[-1], scores(generator, WORDS[::-1]), strict=True):
        assert own > start + 2
        assert own > other + 2


@pytest.mark.parametrize("method", ["asd", "vsd"])
def test_a_run_that_stops_ends_where_an_unbroken_one_does(method: str, tmp_path: Path) -> None:
    """VSD's additions and their moments are part of what goes on."""
    config, prior = small(method=MethodConfig(method)), learned()  # type: ignore[arg-type]
    whole = distil(config, prior, tmp_path / "whole", save_every=2)
    distil(config, prior, tmp_path / "parts", save_every=2)
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-00000004")
    again = distil(config, prior, tmp_path / "parts", save_every=2)
    assert torch.equal(numbers(again), numbers(whole))
    other = distil(replace(config, seed=1), prior, tmp_path / "other")
    assert not torch.equal(numbers(other), numbers(whole))


def test_vsd_s_additions_learn_beside_the_generator_and_the_prior_stays(tmp_path: Path) -> None:
    prior = learned()
    before = [weight.clone() for weight in prior.network.parameters()]  # type: ignore[attr-defined]
    model = Distilled(small(method=MethodConfig("vsd")), prior)
    assert model.additions is not None
    value = model(Batch(0, (0, 0, 1, 1)), Noise(0, range(4)))
    value.backward()
    found = [weight.grad for weight in model.additions.parameters() if weight.grad is not None]
    assert max(float(gradient.abs().max()) for gradient in found) > 0
    after = list(prior.network.parameters())  # type: ignore[attr-defined]
    assert all(weight.grad is None and torch.equal(weight, was) for weight, was in zip(after, before, strict=True))


def test_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="VSD adapts"):
        distil(small(method=MethodConfig("vsd")), known(), tmp_path)
    strange = replace(small(), generator=GeneratorConfig(("red", "blue"), (8,), 8))
    with pytest.raises(InputError, match="the prompt"):
        distil(strange, known(), tmp_path)
    distil(small(steps=1), known(), tmp_path / "run")
    with pytest.raises(InputError):
        distil(small(steps=2, rate=1e-3), known(), tmp_path / "run")
