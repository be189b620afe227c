"""A run: what it does to a scene, exact resume, and what it refuses."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from degauss.core.errors import InputError
from degauss.core.nets.ncsnpp import NCSNppConfig
from degauss.core.noise import Noise
from degauss.core.train.journal import forget
from degauss.core.train.process import Interrupted
from degauss.threed.densify import DensifyConfig
from degauss.threed.distillation.vsd import Variational
from degauss.threed.embedded_prior import EmbeddedConfig, EmbeddedPrior
from degauss.threed.hashgrid import HashConfig
from degauss.threed.methods import NAMES, MethodConfig
from degauss.threed.rendering import Rendered
from degauss.threed.run import Rates, Regularisers, Run, RunConfig, Seen, go_on
from degauss.threed.scenes import Kind, fingerprint_of
from degauss.threed.volume import March
from degauss.threed.watching import Journal

from ._little import little, oracle

PRIOR = oracle().prior


def embedded() -> EmbeddedPrior:
    network = NCSNppConfig(channels=8, multipliers=(1, 2), patch=2)
    prior = EmbeddedPrior.new(EmbeddedConfig(("box", "ball"), 16, network=network))
    prior.network.eval().requires_grad_(False)
    # A fresh network answers 0, whatever it is asked.
    for draw, weight in enumerate(prior.network.parameters()):
        weight.add_(0.05 * Noise(0, (0,)).normal(weight[None], draw)[0])
    return prior


def config_of(kind: Kind) -> RunConfig:
    config = little(kind, regularisers=Regularisers(0.1, 0.1, 0.1))
    if kind == "gaussians":
        return replace(config, densify=DensifyConfig(1, 4, 2, 100, 1e-6, 0.01, most=200))
    tiny = HashConfig(levels=2, coarsest=4, finest=8, rows=256, features=2, hidden=8, march=March(12, 8))
    return replace(config, scene=replace(config.scene, hashgrid=tiny))


@pytest.mark.parametrize("kind", ["volume", "hashgrid", "gaussians"])
def test_a_run_that_is_stopped_and_goes_on_is_an_unbroken_one_to_the_last_bit(kind: Kind, tmp_path: Path) -> None:
    config = config_of(kind)
    whole = Run(config, PRIOR)
    go_on(whole, tmp_path / "whole")

    def stop(run: Run, seen: Seen) -> None:
        if seen.step == 3:
            signal.raise_signal(signal.SIGINT)

    first = Run(config, PRIOR)
    with pytest.raises(Interrupted, match="after step 3 of 6; run the same command again"):
        go_on(first, tmp_path / "cut", [stop])
    second = Run(config, PRIOR)
    assert second.load(tmp_path / "cut")
    assert second.step == 3
    go_on(second, tmp_path / "cut")
    assert fingerprint_of(second.scene) == fingerprint_of(whole.scene)
    assert second.evaluations == whole.evaluations == 6 * 2
    if kind == "gaussians":
        assert len(whole.scene.state_dict()["means"]) > 60, "it must have densified, or the test shows less"


def latents() -> Any:
    """A prior of x0 of its own, like a latent model's: the oracle's, but it sees colours turned over and pale."""

    def encode(rgb: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
        return 0.5 * PRIOR.encode(rgb.flip(-1), normal)

    names = ("schedule", "size", "channels", "vocabulary", "check", "together", "denoiser", "unconditional", "decode")
    return SimpleNamespace(**{name: getattr(PRIOR, name) for name in names}, encode=encode)


def staged(steps: int = 6, **other: object) -> RunConfig:
    return replace(config_of("gaussians"), regularisers=Regularisers(), steps=steps, shape=0.5, **other)


def test_stable_dreamer_asks_for_the_shape_first_and_then_for_the_colours_of_latents() -> None:
    latent = latents()
    run = Run(staged(), PRIOR, latent=latent)
    seen = [run.advance() for _ in range(6)]
    assert [one.prior is latent for one in seen] == [False] * 3 + [True] * 3
    # The first stage falls from high noise to that in which the second one stays.
    highest = [stage.times.high(within) for stage, within in map(run.stages.at, range(6))]
    assert highest[0] == pytest.approx(0.98)
    assert highest[3:] == [pytest.approx(0.5)] * 3
    assert highest == sorted(highest, reverse=True)
    # Draws of the second stage are its own.
    alone = Run(replace(staged(), shape=None), PRIOR)
    assert fingerprint_of(alone.scene) != fingerprint_of(run.scene)


@pytest.mark.parametrize("cut", [2, 3, 4])
def test_a_run_in_stages_goes_on_across_their_border(cut: int, tmp_path: Path) -> None:
    whole = Run(staged(), PRIOR, latent=latents())
    for _ in range(6):
        whole.advance()
    first = Run(staged(), PRIOR, latent=latents())
    for _ in range(cut):
        first.advance()
    first.save(tmp_path)
    second = Run(staged(), PRIOR, latent=latents())
    assert second.load(tmp_path)
    go_on(second, tmp_path)
    assert fingerprint_of(second.scene) == fingerprint_of(whole.scene)
    # Must fail: a second stage that asks the first one's prior.
    other = Run(staged(), PRIOR)
    for _ in range(6):
        other.advance()
    assert fingerprint_of(other.scene) != fingerprint_of(whole.scene)
    with pytest.raises(InputError, match=r"shape is 0\.5 there and None here"):
        Run(replace(staged(), shape=None), PRIOR).load(tmp_path)


def test_a_comparison_may_go_on_after_the_last_step() -> None:
    run = Run(staged(steps=2), PRIOR)
    for _ in range(3):
        run.advance()
    assert run.step == 3


def test_vsd_resumes_with_what_it_learned(tmp_path: Path) -> None:
    config = replace(little(steps=4, method="vsd"), prompt="box")
    whole = Run(config, embedded())
    for _ in range(4):
        whole.advance()
    first = Run(config, embedded())
    for _ in range(2):
        first.advance()
    first.save(tmp_path)
    second = Run(config, embedded())
    second.load(tmp_path)
    for _ in range(2):
        second.advance()
    assert fingerprint_of(second.scene) == fingerprint_of(whole.scene) != fingerprint_of(first.scene)
    methods = [run.method for run in (whole, second, Run(config, embedded()))]
    learned = [fingerprint_of(method.score.additions) for method in methods if isinstance(method, Variational)]
    assert learned[0] == learned[1] != learned[2]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_turns_the_scene(name: str) -> None:
    run = Run(replace(little(steps=2, method=name)), embedded())
    before = fingerprint_of(run.scene)
    seen = run.advance()
    assert fingerprint_of(run.scene) != before
    assert bool(seen.residual.gradient.isfinite().all())
    assert run.evaluations == seen.residual.evaluations > 0


def test_the_oracle_is_approached() -> None:
    run = Run(little(steps=40, views=4, rates=Rates(raw=0.5, colour=0.3)), PRIOR)
    losses = torch.stack([run.advance().loss for _ in range(40)])
    assert float(losses[-8:].mean()) < 0.6 * float(losses[:4].mean())


def test_a_run_depends_on_its_seed_and_on_nothing_else() -> None:
    def result(seed: int) -> str:
        run = Run(little(steps=2, seed=seed), PRIOR)
        torch.manual_seed(seed + torch.initial_seed() % 7)
        run.advance()
        run.advance()
        return fingerprint_of(run.scene)

    assert result(0) == result(0) != result(1)


def test_the_gradient_of_a_pixel_can_be_bounded() -> None:
    def largest(clip: float) -> float:
        run = Run(little(clip=clip), PRIOR)
        seen: list[torch.Tensor] = []
        encode = run.prior.encode

        def watched(rgb: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
            if not seen:
                rgb.register_hook(seen.append)
            return encode(rgb, normal)

        run.prior = SimpleNamespace(**{name: getattr(PRIOR, name) for name in ("schedule", "together")}, encode=watched)  # type: ignore[assignment]
        run.advance()
        return float(seen[0].abs().max())

    assert largest(0.0) > 0.01
    assert largest(0.01) <= 0.01 + 1e-7


def test_the_learning_rate_falls_to_its_last_share() -> None:
    run = Run(little(steps=4, rates=Rates(raw=0.2, last=0.5)), PRIOR)
    run.step = 4
    run._cool()  # pyright: ignore[reportPrivateUsage]
    assert run.optimiser.param_groups[0]["lr"] == pytest.approx(0.1)


def test_regularisers_are_their_formulas() -> None:
    rgb = torch.zeros(1, 2, 2, 3)
    rgb[0, 1] = 1.0
    alpha = torch.full((1, 2, 2), 0.5)
    seen = Rendered(rgb, alpha, torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, 3))
    assert float(Regularisers(sparsity=2)(seen)) == pytest.approx(2 * 0.26**0.5)
    assert float(Regularisers(opacity=1)(seen)) == pytest.approx(0.6931, abs=1e-3)
    assert float(Regularisers(tv=1)(seen)) == pytest.approx(0.75)  # down the image, 3 of 4 channels
    assert float(Regularisers()(seen)) == 0


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    Run(little(), PRIOR).save(tmp_path)
    with pytest.raises(InputError, match=r"holds another run: seed is 0 there and 1 here"):
        Run(little(seed=1), PRIOR).load(tmp_path)
    with pytest.raises(InputError, match=r"scene\.kind is 'volume' there and 'gaussians' here"):
        Run(little("gaussians"), PRIOR).load(tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = Run(little(), PRIOR).save(tmp_path)
    (path / "state.safetensors").write_bytes(b"\0" * 9)
    with pytest.raises(InputError, match=r"state\.safetensors"):
        Run(little(), PRIOR).load(tmp_path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Run(replace(little(), prompt="cat"), PRIOR), "'box'"),
        (lambda: little(steps=0), "steps must be at least 1"),
        (lambda: little(clip=-1.0), "clip must be at least 0"),
        (lambda: staged(steps=1), "both stages need a step"),
        (lambda: staged(method=MethodConfig("asd")), "of sds, but the method is asd"),
        (lambda: Rates(raw=-1.0), "learning rates must be above 0"),
        (lambda: Regularisers(tv=-1.0), "at least 0"),
        (lambda: MethodConfig(perp_neg=1.0), "perpendicular"),
        (lambda: Run(little(method="vsd"), PRIOR), "has none"),
    ],
)
def test_what_cannot_be_is_refused(make: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()  # type: ignore[operator]


def test_a_journal_drops_what_will_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st', encoding="utf-8")
    forget(path, 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    run = Run(little(), PRIOR)
    seen = run.advance()
    with pytest.raises(InputError, match="after step 1 the loss is not finite"):
        Journal(tmp_path / "metrics.jsonl", every=1)(run, seen._replace(loss=torch.tensor(torch.nan)))
