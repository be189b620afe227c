"""The claims' verdicts follow from their figures as their texts say, and what they measure on is what they promise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from degauss.core.claims import find_claims, source_tree
from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.threed.cameras import Cameras
from degauss.threed.distillation.residual import Residual
from degauss.threed.embedded_prior import EmbeddedConfig, EmbeddedPrior
from degauss.threed.gaussians import Gaussians
from degauss.threed.janus import judged_views
from degauss.threed.prior_sources import Source
from degauss.threed.shapes import SHIPPED

from ._little import oracle_orbits

Figures = dict[str, list[float]]


def loaded(name: str, helper: str | None = None) -> ModuleType:
    """A claim as a module, or a helper that it uses."""
    (claim,) = find_claims(source_tree(), [name])
    claim.load()
    return sys.modules[f"degauss_claims.3d.{helper or name}"]


def spread(values: Mapping[str, float]) -> Figures:
    """Three seeds, of which one is off."""
    return {name: [value, value, 1e3] for name, value in values.items()}


def verdict(name: str, values: Mapping[str, float], **changed: float) -> str:
    figures = spread({**values, **{key.replace("__", ", "): value for key, value in changed.items()}})
    return loaded(name).judged(figures)


# --- methods ------------------------------------------------------------------------------------------------

METHODS = ("sds", "asd", "vsd", "ism", "tsm")
COMPARED = {
    "PSNR (dB), start": 10.0,
    **{f"PSNR (dB), {name}": psnr for name, psnr in zip(METHODS, (15.0, 18.0, 17.0, 16.0, 16.5), strict=True)},
    **{f"IoU, {name}": iou for name, iou in zip(METHODS, (0.5, 0.8, 0.7, 0.6, 0.6), strict=True)},
    **{f"Chamfer, {name}": d for name, d in zip(METHODS, (0.05, 0.02, 0.03, 0.04, 0.04), strict=True)},
    **{f"CPU seconds, {name}": s for name, s in zip(METHODS, (20.0, 15.0, 30.0, 15.0, 15.0), strict=True)},
    **{f"noise in the gradient, {name}": s for name, s in zip(METHODS, (0.5, 0.5, 0.5, 0.2, 0.2), strict=True)},
    **{f"PSNR beside car (dB), {name}": 9.0 for name in METHODS},
    "diversity, sds": 0.01,
    "diversity, vsd": 0.02,
}


def test_methods_as_the_papers_order_them() -> None:
    assert verdict("methods_compared", COMPARED) == "holds"


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("PSNR (dB), asd", 16.9),
        ("IoU, asd", 0.69),
        ("Chamfer, asd", 0.031),
        ("CPU seconds, asd", 25.0),
        ("diversity, vsd", 0.009),
        ("noise in the gradient, ism", 0.51),
        ("PSNR (dB), tsm", 15.9),
        ("PSNR (dB), sds", 11.9),
        ("PSNR beside car (dB), asd", 18.1),
    ],
)
def test_one_figure_is_enough(figure: str, value: float) -> None:
    assert loaded("methods_compared").judged(spread(COMPARED | {figure: value})) == "holds partly"


def test_what_one_seed_cannot_tell_is_not_met() -> None:
    alone = {name: value for name, value in COMPARED.items() if not name.startswith("diversity")}
    assert loaded("methods_compared").judged(spread(alone)) == "holds partly"


def test_nothing_holds_where_nothing_works() -> None:
    flat = COMPARED | {f"PSNR (dB), {name}": 10.0 - row for row, name in enumerate(METHODS)}
    flat |= {"PSNR (dB), asd": 5.0, "CPU seconds, asd": 30.0, "diversity, vsd": 0.0, "noise in the gradient, ism": 0.9}
    assert loaded("methods_compared").judged(spread(flat)) == "does not hold"


# --- the noise ----------------------------------------------------------------------------------------------


def errors(prior: float = 1.0, later: float = 0.8, earlier: float = 1.2, learned: float = 0.7) -> Figures:
    """Errors that fall with t."""
    module = loaded("asd_noise_error")
    rows = {module.PRIOR: prior, module.LATER: later, module.EARLIER: earlier, module.LEARNED: learned}
    return spread({f"{name}, t = {time}": size * (1 - time) for name, size in rows.items() for time in module.TIMES})


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        (errors, "holds"),
        (lambda: errors(later=1.1), "holds partly"),
        (lambda: errors(learned=1.1), "holds partly"),
        (lambda: errors(earlier=0.9), "holds partly"),
        (lambda: errors(prior=-1.0, later=0.5, learned=0.5), "does not hold"),
    ],
)
def test_the_errors_of_the_noise(figures: Callable[[], Figures], says: str) -> None:
    assert loaded("asd_noise_error").judged(figures()) == says


# --- trajectories -------------------------------------------------------------------------------------------

TRAJECTORIES = {
    "PSNR (dB), TSM, gamma 0.3": 18.0,
    "PSNR (dB), ISM": 17.0,
    "PSNR (dB), ISM at TSM's distance": 17.4,
    "cosine, TSM, gamma 0.3 and ISM at TSM's distance": 0.9,
    "cosine, TSM, gamma 1 and ISM": 1.0,
}


@pytest.mark.parametrize(
    ("figure", "value", "says"),
    [
        ("PSNR (dB), ISM", 17.0, "holds"),
        ("PSNR (dB), ISM", 17.6, "holds partly"),
        ("PSNR (dB), ISM at TSM's distance", 17.9, "holds partly"),
        ("cosine, TSM, gamma 0.3 and ISM at TSM's distance", 0.995, "holds partly"),
        ("cosine, TSM, gamma 1 and ISM", 0.5, "holds partly"),
    ],
)
def test_trajectories(figure: str, value: float, says: str) -> None:
    figures = spread(TRAJECTORIES | {figure: value})
    figures["cosine, TSM, gamma 1 and ISM"][-1] = 1.0
    assert loaded("tsm_vs_ism").judged(figures) == says


def test_at_the_same_distance_is_the_published_t_less_mu() -> None:
    module = loaded("tsm_vs_ism")
    assert module.share(0.3) == pytest.approx(0.0461, abs=1e-4)
    near, published = module.methods(100)[module.NEAR], module.methods(100)[module.TSM3]
    t = torch.tensor([0.5], dtype=torch.float64)
    for step in (0, 15, 100):
        mu = published.between(published.trajectory.before(t, step), t)
        assert float(near.trajectory.before(t, step)) == pytest.approx(float(mu))


# --- faces --------------------------------------------------------------------------------------------------

FACES = {
    "Janus rate, twin": 0.4,
    "Janus rate, twin, annealed": 0.3,
    "Janus rate, views": 0.1,
    "Janus rate, views, annealed": 0.02,
    "Janus rate, true meshes": 0.0,
}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "holds"),
        ({"Janus rate, twin, annealed": 0.38}, "holds partly"),
        ({"Janus rate, views": 0.35}, "holds partly"),
        ({"Janus rate, views, annealed": 0.1}, "holds partly"),
        ({"Janus rate, true meshes": 0.1}, "holds partly"),
        ({"Janus rate, twin": 0.1, "Janus rate, views, annealed": 0.1}, "does not hold"),
    ],
)
def test_faces(changed: dict[str, float], says: str) -> None:
    assert verdict("janus", FACES | changed) == says


def test_a_true_mesh_has_no_second_face_and_one_that_is_all_front_has_nothing_else() -> None:
    faces = loaded("janus", "_faces")
    assert faces.faces(loaded("janus", "_scenes").truth("snowman"), "snowman") == 0
    front = faces.images(faces.truth("snowman"), judged_views(64)[torch.zeros(1, dtype=torch.long)])
    assert front.shape == (1, 3, 32, 32)
    judge = faces.judge("snowman", 15.0)
    assert judge(judge.images[:1].expand(5, -1, -1, -1), torch.full((5,), 15.0)).tolist() == [0] * 5


PERPENDICULAR = {
    **{f"Janus rate, {name}": 0.1 for name in ("plain", "a tenth", "published", "tenfold")},
    "PSNR (dB), plain": 18.0,
    "PSNR (dB), a tenth": 18.0,
    "PSNR (dB), published": 17.8,
    "PSNR (dB), tenfold": 12.0,
}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "holds"),
        ({"Janus rate, published": 0.2}, "holds partly"),
        ({"PSNR (dB), published": 15.0}, "holds partly"),
        ({"PSNR (dB), tenfold": 18.0}, "holds partly"),
        ({"PSNR (dB), plain": 20.0, "Janus rate, published": 0.2}, "does not hold"),
    ],
)
def test_perpendicular_negatives(changed: dict[str, float], says: str) -> None:
    assert verdict("perp_neg", PERPENDICULAR | changed) == says


# --- one generator ------------------------------------------------------------------------------------------

AMORTISED = {
    "PSNR (dB), asd": 18.0,
    "PSNR (dB), sds": 16.0,
    "PSNR (dB), vsd": 16.0,
    **{f"loss from the best look (dB), {name}": lost for name, lost in (("asd", 0.1), ("sds", 2.0), ("vsd", 0.0))},
    **{f"words below the start, {name}": 0.0 for name in ("asd", "sds", "vsd")},
    "PSNR beside the next word's mesh (dB), asd": 12.0,
}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "holds"),
        ({"PSNR (dB), vsd": 17.8}, "holds partly"),
        ({"PSNR (dB), sds": 17.8}, "holds partly"),
        ({"loss from the best look (dB), asd": 1.0}, "holds partly"),
        ({"loss from the best look (dB), sds": 0.0}, "holds partly"),
        ({"words below the start, asd": 1.0}, "holds partly"),
        ({"PSNR beside the next word's mesh (dB), asd": 17.5}, "holds partly"),
    ],
)
def test_one_generator(changed: dict[str, float], says: str) -> None:
    assert verdict("amortised", AMORTISED | changed) == says


# --- edits --------------------------------------------------------------------------------------------------

EDITS = {
    "gradient where nothing is to be done, SDS": 0.4,
    "gradient where nothing is to be done, DDS": 0.0,
    "cosine with the true edit, SDS": 0.3,
    "cosine with the true edit, DDS": 0.6,
    "background's change, SDS": 0.3,
    "background's change, SDS, as many steps": 0.2,
    "background's change, DDS": 0.02,
    "PSNR (dB), SDS": 12.0,
    "PSNR (dB), DDS": 15.0,
    "PSNR (dB), DDS, wrong reference": 11.0,
    "sharpness, SDS": 0.5,
    "sharpness, DDS": 1.2,
}


@pytest.mark.parametrize(
    ("figure", "value", "says"),
    [
        ("PSNR (dB), SDS", 12.0, "holds"),
        ("gradient where nothing is to be done, SDS", 0.09, "holds partly"),
        ("gradient where nothing is to be done, DDS", 0.01, "holds partly"),
        ("cosine with the true edit, SDS", 0.55, "holds partly"),
        ("background's change, DDS", 0.11, "holds partly"),
        ("PSNR (dB), SDS", 15.1, "holds partly"),
        ("sharpness, DDS", 2.1, "holds partly"),
        ("PSNR (dB), DDS, wrong reference", 14.6, "holds partly"),
    ],
)
def test_edits(figure: str, value: float, says: str) -> None:
    assert loaded("dds_loss").judged(spread(EDITS | {figure: value})) == says


def test_no_edit_is_as_it_should_be() -> None:
    figures = ("gradient where nothing is to be done", "cosine with the true edit", "background's change", "sharpness")
    nothing = EDITS | {f"{figure}, DDS": EDITS[f"{figure}, SDS"] for figure in figures} | {"PSNR (dB), DDS": 9.0}
    assert loaded("dds_loss").judged(spread(nothing)) == "does not hold"


def test_pictures_over_a_background_and_what_is_measured_of_them() -> None:
    module, prior = loaded("dds_loss"), untrained().prior
    cameras = Cameras.orbit(torch.tensor([30.0]), 15.0, size=32)
    old, new = (module.seen(prior, word, cameras) for word in ("mug", "car"))
    empty = torch.maximum(old.alpha, new.alpha) < 1e-6
    assert 0.2 < float(empty.double().mean()) < 0.9
    assert module.change(old.x0, new.x0, empty) < 1e-6, "nothing but the object differs"
    assert old.x0[0, :3, 0, 0].tolist() == pytest.approx([2 * part - 1 for part in module.SKY])
    assert old.x0[0, :3, -1, 0].tolist() == pytest.approx([2 * part - 1 for part in module.SAND])
    assert float(old.x0[0, 3:, 0, 0].abs().max()) == 0
    everywhere = torch.ones_like(empty)
    x0 = torch.zeros_like(old.x0)
    assert module.change(x0 + 0.2, x0, everywhere) == pytest.approx(0.1)
    assert module.psnr(x0 + 0.2, x0, everywhere) == pytest.approx(20.0)
    stripes = x0 + 0.2 * (torch.arange(x0.shape[-1]) % 2)
    assert module.sharpness(stripes, everywhere) == pytest.approx(0.05)
    assert module.sharpness(stripes, torch.arange(x0.shape[-1]) % 2 == everywhere) == pytest.approx(0.0)


def test_a_descent_takes_up_where_it_stopped_and_ends_at_what_is_wanted() -> None:
    module, noise = loaded("dds_loss"), Noise(0, range(2))
    wanted, x0 = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)

    def pull(x0: torch.Tensor, t: torch.Tensor, noise: Noise, step: int) -> Residual:
        del noise
        return Residual((x0 - wanted) * t.float()[:, None, None, None], wanted, step)

    halves = module.descended(module.descended(x0, pull, noise, 30), pull, noise, 30, 30)
    assert torch.equal(halves, module.descended(x0, pull, noise, 60))
    assert float((halves - wanted).abs().max()) < 0.3


# --- stages -------------------------------------------------------------------------------------------------

STAGES = {
    "Janus rate, plain": 0.4,
    "Janus rate, two stages": 0.2,
    "IoU, first stage": 0.7,
    "IoU, two stages": 0.75,
    "PSNR (dB), first stage": 15.0,
    "PSNR (dB), two stages": 17.0,
    "PSNR (dB), plain": 16.0,
    "PSNR (dB), second stage only": 14.0,
    "sharpness, truth": 0.05,
    "sharpness, first stage": 0.03,
    "sharpness, two stages": 0.06,
    "saturation, truth": 0.3,
    "saturation, plain": 0.5,
    "saturation, two stages": 0.25,
}


@pytest.mark.parametrize(
    ("figure", "value", "says"),
    [
        ("PSNR (dB), plain", 16.0, "holds"),
        ("Janus rate, two stages", 0.36, "holds partly"),
        ("IoU, first stage", 0.6, "holds partly"),
        ("PSNR (dB), first stage", 16.6, "holds partly"),
        ("sharpness, two stages", 0.08, "holds partly"),
        ("PSNR (dB), plain", 16.6, "holds partly"),
        ("saturation, plain", 0.32, "holds partly"),
        ("PSNR (dB), second stage only", 16.1, "holds partly"),
    ],
)
def test_stages(figure: str, value: float, says: str) -> None:
    assert loaded("stable_dreamer").judged(spread(STAGES | {figure: value})) == says


def test_arms_of_the_stages_ask_at_their_own_times() -> None:
    module = loaded("stable_dreamer")
    effort = module.Effort(steps=10, gaussians=20)
    runs = {
        arm: module.begun(arm, untrained(), "mug", 0, effort) for arm in (module.PLAIN, module.STAGED, module.COLOURS)
    }

    def span(arm: str, step: int) -> tuple[float, float]:
        stage, within = runs[arm].stages.at(step)
        return round(stage.times.low(within), 2), round(stage.times.high(within), 2)

    assert span(module.PLAIN, 0) == span(module.PLAIN, 9) == (0.02, 0.98)
    assert span(module.COLOURS, 0) == span(module.COLOURS, 9) == (0.02, 0.5)
    assert (span(module.STAGED, 0), span(module.STAGED, 5), span(module.STAGED, 9)) == (
        (0.98, 0.98), (0.02, 0.5), (0.02, 0.5),
    )  # fmt: skip
    assert len({type(run.scene) for run in runs.values()} | {Gaussians}) == 1


def test_colours_and_edges_of_the_truth() -> None:
    module = loaded("stable_dreamer")
    seen = loaded("stable_dreamer", "_scenes").pictures("mug")
    grey = seen._replace(rgb=torch.full_like(seen.rgb, 0.5))
    assert module.saturation(grey, "mug") == module.sharpness(grey) == 0
    assert 0.05 < module.saturation(seen, "mug") < 1
    assert 0 < module.sharpness(seen) < 0.2


# --- as a whole ---------------------------------------------------------------------------------------------


def test_a_claim_whose_prior_is_not_there_says_so() -> None:
    with pytest.raises(InputError, match="rests on the prior 'nowhere'"):
        loaded("janus", "_scenes").shipped("nowhere")


def test_both_forms_of_score_distillation_are_one_gradient() -> None:
    assert loaded("sds_forms").run((0,)).verdict == "holds"


def untrained(name: str = "embedded") -> Source:
    """A prior of the right words, which has learned nothing, of 16 x 16 pixels."""
    told = name == "embedded"
    prior = EmbeddedPrior.new(EmbeddedConfig(SHIPPED, size=16, views=told, normals=told))
    prior.network.requires_grad_(False)
    return Source(prior, name, "0" * 64, "ours", oracle_orbits(), told)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "effort", "figures"),
    [
        ("methods_compared", {"word": "mug", "evaluations": 8}, 5 * 9 + 1),
        ("asd_noise_error", {"word": "mug", "steps": 1}, 25),
        ("tsm_vs_ism", {"word": "mug", "evaluations": 8}, 3 * 6 + 5),
        ("janus", {"words": ("mug",), "steps": 1}, 9),
        ("perp_neg", {"words": ("mug",), "steps": 1}, 9),
        ("amortised", {"words": ("mug", "car"), "evaluations": 24, "channels": (8,), "words_a_step": 2}, 16),
        ("dds_loss", {"edits": (("mug", "car", "chair"),), "steps": 1, "draws": 2}, 17),
        ("stable_dreamer", {"faces": ("mug",), "word": "mug", "steps": 2, "gaussians": 20}, 24),
    ],
)
def test_each_runs_through(name: str, effort: dict[str, Any], figures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded(name)
    monkeypatch.setattr(module, "shipped", untrained)
    result = module.run((0, 1), replace(module.EFFORT, **effort))
    assert len(result.figures) >= figures
    assert all(len(values) in (1, 2) for values in result.figures.values())
    assert "sha256" in result.notes


@pytest.mark.slow
def test_each_trajectory_is_distilled_by_its_own_method(monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded("tsm_vs_ism")
    monkeypatch.setattr(module, "cosines", lambda *_: {})
    found = module.one(untrained(), 0, module.Effort("mug", 40))
    ends = [value for name, value in found.items() if name.startswith("PSNR")]
    assert len(ends) == len(set(ends)) == 6
