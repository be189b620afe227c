"""The embedded prior: what it is told, what its answers are made of, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.gaussian import ddim
from degauss.core.nets.ncsnpp import NCSNppConfig
from degauss.core.sampling import sample
from degauss.threed.cameras import Orbits
from degauss.threed.embedded_prior import EmbeddedConfig, EmbeddedPrior, find_prior, shipped_priors, told
from degauss.threed.prior import Condition, HasNetwork
from degauss.threed.views import Views

NETWORK = NCSNppConfig(channels=8, multipliers=(1, 2), attention=False)
CONFIG = EmbeddedConfig(("cat", "dog", "eel"), size=8, network=NETWORK)


def wild(config: EmbeddedConfig = CONFIG) -> EmbeddedPrior:
    """A prior whose answers depend on everything that it is told."""
    prior = EmbeddedPrior.new(config, seed=1)
    generator = torch.Generator().manual_seed(0)
    for weight in prior.network.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator)
    prior.network.eval().requires_grad_(False)
    return prior


def views(*azimuths: float) -> Views:
    azimuth = torch.tensor(azimuths)
    return Views(azimuth, torch.full_like(azimuth, 20.0))


def noisy(rows: int, channels: int = 6) -> Tensor:
    return torch.randn(rows, channels, 8, 8, generator=torch.Generator().manual_seed(rows))


T = torch.tensor(0.7, dtype=torch.float64)


# --- what it is told ----------------------------------------------------------------------------------------


def test_a_name_is_one_hot_and_a_view_is_its_harmonics() -> None:
    found = told(CONFIG, torch.tensor([1, -1]), Views(torch.tensor([30.0, -90.0]), torch.tensor([30.0, 0.0])))
    a, e = math.radians(30), math.radians(30)
    expected = [0, 1, 0, *(math.sin(k * a) for k in (1, 2, 3)), *(math.cos(k * a) for k in (1, 2, 3)), math.sin(e)]
    torch.testing.assert_close(found[0], torch.tensor([*expected, math.cos(e)]))
    torch.testing.assert_close(found[1], torch.tensor([0.0, 0, 0, -1, 0, 1, 0, -1, 0, 0, 1]), atol=1e-6, rtol=0)


def test_what_is_not_told_is_zero() -> None:
    label = torch.tensor([0, 2])
    assert bool((told(CONFIG, label, None)[:, 3:] == 0).all())
    blind = replace(CONFIG, views=False)
    assert told(blind, label, views(0, 90)).shape == (2, 3)
    # A view that is told is never mistaken for none: it has a length.
    seen = told(CONFIG, label, views(0, 77))[:, 3:]
    torch.testing.assert_close(seen.square().sum(1), torch.full((2,), 4.0))


def test_an_azimuth_is_itself_plus_a_turn() -> None:
    label = torch.tensor([0, 0])
    torch.testing.assert_close(
        told(CONFIG, label, views(-170, 10)), told(CONFIG, label, views(190, 370)), atol=1e-6, rtol=0
    )


# --- its answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [0.02, 0.5, 0.9, 1.0])
def test_untrained_it_answers_the_best_linear_guess(time: float) -> None:
    prior, x, t = EmbeddedPrior.new(CONFIG), noisy(2), torch.tensor(time, dtype=torch.float64)
    alpha, sigma = prior.schedule(t)
    spread = CONFIG.sigma_data**2
    expected = float(alpha * spread / (sigma**2 + alpha**2 * spread)) * x
    torch.testing.assert_close(prior.denoiser("cat")(x, t).mean, expected)


def test_the_schedule_preserves_variance_and_ends_in_noise() -> None:
    alpha, sigma = wild().schedule(torch.linspace(0, 1, 11, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert alpha[-1] == 0


def test_levels_beyond_its_training_are_told_as_the_nearest_inside() -> None:
    prior = wild()
    x = noisy(1)
    at_end = prior.denoiser("cat")(x, torch.tensor(1.0, dtype=torch.float64)).mean
    assert bool(at_end.isfinite().all())
    level: list[Tensor] = []
    handle = prior.network.register_forward_pre_hook(lambda _, inputs: level.append(inputs[1]))
    for time in (1.0, CONFIG.times[1], 0.0001, CONFIG.times[0]):
        prior.denoiser("cat")(x, torch.tensor(time, dtype=torch.float64))
    handle.remove()
    assert level[0] == level[1]
    assert level[2] == level[3]


def test_name_and_view_change_the_answer() -> None:
    prior, x = wild(), noisy(1)
    answers = [
        prior.denoiser("cat", views=views(0))(x, T).mean,
        prior.denoiser("dog", views=views(0))(x, T).mean,
        prior.denoiser("cat", views=views(180))(x, T).mean,
        prior.denoiser("cat")(x, T).mean,
        prior.unconditional(views(0))(x, T).mean,
        prior.unconditional()(x, T).mean,
    ]
    for i, one in enumerate(answers):
        for other in answers[:i]:
            assert (one - other).abs().max() > 1e-3


def test_without_views_all_sides_look_the_same() -> None:
    prior = wild(replace(CONFIG, views=False, normals=False))
    assert prior.channels == 3
    x = noisy(1, 3)
    front, back = (prior.denoiser("cat", 2.0, views(angle))(x, T).mean for angle in (0.0, 180.0))
    assert bool((front == back).all())


def test_conditions_share_a_batch_and_do_not_mix() -> None:
    prior, x, t = wild(), noisy(6), torch.rand(6, generator=torch.Generator().manual_seed(2)).double()
    seen = views(10, 200)
    conditions = (Condition("cat", seen), Condition(None, seen), Condition("eel"))
    together = prior.together(conditions)(x, t).mean
    alone = [
        prior.together((under,))(x[k : k + 2], t[k : k + 2]).mean
        for under, k in zip(conditions, (0, 2, 4), strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    # One view of a block answers for its own row.
    own = prior.denoiser("cat", views=seen[1:])(x[1:2], t[1:2]).mean
    torch.testing.assert_close(together[1:2], own, atol=1e-5, rtol=1e-5)


def test_guidance_goes_from_any_object_to_the_named_one_and_beyond() -> None:
    prior, x, seen = wild(), noisy(2), views(10, 200)
    strong = prior.denoiser("dog", views=seen)(x, T).mean
    weak = prior.unconditional(seen)(x, T).mean
    for scale in (0.0, 2.5):
        found = prior.denoiser("dog", scale, seen)(x, T).mean
        torch.testing.assert_close(found, weak + scale * (strong - weak), atol=1e-5, rtol=1e-5)


def test_without_guidance_it_is_asked_half_as_much() -> None:
    prior, rows = wild(), []
    prior.network.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    for scale in (1.0, 3.0):
        prior.denoiser("dog", scale)(noisy(2), T)
    assert rows == [2, 4]


def test_rows_that_do_not_fit_the_views_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows do not fit 1 conditions with views of"):
        wild().denoiser("cat", views=views(0, 90))(noisy(3), T)


def test_gradients_reach_the_render() -> None:
    prior = wild()
    rgb = torch.rand(1, 16, 16, 3, requires_grad=True)
    normal = torch.zeros(1, 16, 16, 3, requires_grad=True)
    x0 = prior.encode(rgb, normal)
    assert x0.shape == (1, 6, 8, 8)
    prior.denoiser("cat", 2.0, views(0))(x0, T).mean.square().sum().backward()
    for part in (rgb, normal):
        assert part.grad is not None
        assert part.grad.abs().max() > 0


def test_colours_survive_encoding() -> None:
    rgb = torch.rand(2, 8, 8, 3)
    torch.testing.assert_close(wild().decode(wild().encode(rgb, torch.zeros_like(rgb))), rgb)


def test_it_is_sampled_by_any_solver_of_the_core() -> None:
    prior = wild()
    denoiser = prior.denoiser("cat", views=views(0, 90))
    made = sample(denoiser, prior.schedule, (2, 6, 8, 8), solver=ddim(), steps=3)
    assert bool(made.isfinite().all())


def test_its_network_can_be_adapted() -> None:
    assert isinstance(wild(), HasNetwork)


# --- what it refuses ----------------------------------------------------------------------------------------


def test_a_word_that_it_does_not_know_is_refused_with_those_it_does() -> None:
    for ask in (wild().check, wild().denoiser):
        with pytest.raises(InputError, match=r"does not know 'cta' \(did you mean 'cat'\?\).* cat, dog, eel"):
            ask("cta")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": ()}, "knows one or more objects"),
        ({"vocabulary": ("a", "a")}, "different names"),
        ({"size": 4}, "size must be at least 8"),
        ({"times": (0.5, 0.2)}, "times must be two numbers"),
        ({"sigma_data": math.nan}, "sigma_data must be a number above 0"),
    ],
)
def test_configurations_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changes)


# --- files --------------------------------------------------------------------------------------------------


def test_a_saved_prior_is_the_same_prior(tmp_path: Path) -> None:
    config = replace(CONFIG, orbits=Orbits(elevation=(0.0, 30.0)), times=(0.01, 0.99))
    prior = wild(config)
    prior.save(tmp_path / "model", {"name": "zoo"})
    again = EmbeddedPrior.load(tmp_path / "model")
    assert again.config == config
    x = noisy(2)
    assert bool((again.denoiser("eel", 2.0)(x, T).mean == prior.denoiser("eel", 2.0)(x, T).mean).all())
    assert not any(weight.requires_grad for weight in again.network.parameters())
    assert json.loads((tmp_path / "model" / "card.json").read_text()) == {"name": "zoo"}


@pytest.mark.parametrize("change", [{"size": 2}, {"strange": 1}, {"vocabulary": []}])
def test_a_damaged_configuration_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    wild().save(tmp_path / "model")
    about = json.loads((tmp_path / "model" / "config.json").read_text())
    about["config"].update(change)
    (tmp_path / "model" / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="the configuration is not that of an embedded prior"):
        EmbeddedPrior.load(tmp_path / "model")


def test_weights_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    prior = wild()
    EmbeddedPrior(replace(CONFIG, vocabulary=("cat",)), prior.network).save(tmp_path / "model")
    with pytest.raises(InputError, match="does not fit the network"):
        EmbeddedPrior.load(tmp_path / "model")


def test_a_prior_is_found_by_its_path_or_not_at_all(tmp_path: Path) -> None:
    assert find_prior(tmp_path) == tmp_path
    with pytest.raises(InputError, match="there is no prior 'embeded'"):
        find_prior("embeded")


def shipped(names: Sequence[str]) -> list[str]:
    return [name for name in names if name in shipped_priors()]


@pytest.mark.parametrize("name", shipped(("embedded", "twin")))
def test_what_ships_is_small_and_has_a_card(name: str) -> None:
    folder = find_prior(name)
    prior = EmbeddedPrior.load(folder)
    card = json.loads((folder / "card.json").read_text())
    assert (folder / "model.safetensors").stat().st_size < 5.5e6
    assert prior.config.views == (name == "embedded")
    (plain, guided) = card["metrics"]["samples"]
    assert (plain["guidance"], guided["guidance"]) == (1.0, 2.0)
    if name == "embedded":
        # The gate of everything that is distilled from it.
        assert plain["psnr"] > plain["psnr_of_mean_picture"] + 3
        assert plain["right_word"] > 0.9
        assert plain["right_view"] > 0.8
