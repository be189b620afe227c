"""Enhancers: their published formulas, their samplers on spectra whose law is known, and what a user hands in."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from degauss.audio.enhancement import (
    Enhancer,
    EnhancerConfig,
    Networks,
    Pairs,
    Sampling,
    enhance,
    estimate,
    evaluations,
    sound_of,
    spectrum_for,
)
from degauss.audio.masker import MASK_LOSS, MaskerConfig
from degauss.audio.spectra import Compressed
from degauss.core import Noise, Point
from degauss.core.errors import InputError
from degauss.core.gaussian import Heun, ddim, dpmpp, unipc
from degauss.core.nets.ncsnpp import NCSNppConfig
from degauss.core.process.mean_reverting import OUVE
from degauss.core.process.predictor_corrector import predictor_corrector

NET = NCSNppConfig(channels=4, multipliers=(1, 1), attention=False)
SPECTRUM = Compressed(n_fft=62, hop=16)
BASE = EnhancerConfig(rate=4000, spectrum=SPECTRUM, predictive=NET, score=NET)
KINDS = {
    "predictive": replace(BASE, score=None),
    "sgmse": replace(BASE, predictive=None),
    "storm": BASE,
    "published": replace(BASE, parametrisation="score"),
    "mask": replace(BASE, predictive=MaskerConfig(8, 1), by_magnitude=MASK_LOSS),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def stirred(config: EnhancerConfig, seed: int = 0) -> Enhancer:
    """A model with weights as if trained."""
    model = Enhancer.new(config, seed)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.network.parameters():
        with torch.no_grad():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model.frozen()


def waves(batch: int = 3, length: int = 400) -> Tensor:
    return 0.3 * Noise(5, range(batch)).normal(torch.empty(batch, length))


# --- configurations ---


def test_the_networks_say_which_method_it_is() -> None:
    assert {name: config.method for name, config in KINDS.items()} == {
        "predictive": "predictive", "sgmse": "sgmse", "storm": "storm", "published": "storm", "mask": "storm",
    }  # fmt: skip
    with pytest.raises(InputError, match="it has neither"):
        replace(BASE, predictive=None, score=None)
    for field, value in (("t_eps", 0.0), ("t_eps", 1.0), ("spread", 0.0), ("rate", 10)):
        with pytest.raises(InputError, match=field):
            replace(BASE, **{field: value})


@pytest.mark.parametrize(("rate", "n_fft", "hop"), [(16000, 510, 128), (48000, 1534, 384), (8000, 254, 64)])
def test_spectra_are_the_published_ones(rate: int, n_fft: int, hop: int) -> None:
    spectrum = spectrum_for(rate)
    assert (spectrum.n_fft, spectrum.hop, spectrum.alpha, spectrum.beta) == (n_fft, hop, 0.5, 0.15)


@every_kind
def test_a_saved_model_is_the_same(kind: str, tmp_path: Path) -> None:
    model = stirred(replace(KINDS[kind], spread=0.07, process=OUVE(2.0, 0.1, 1.0)))
    model.save(tmp_path / "model")
    again = Enhancer.load(tmp_path / "model")
    assert again.config == model.config
    wave = waves(1)[0]
    assert torch.equal(enhance(wave, again), enhance(wave, model))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no model"):
        Enhancer.load(tmp_path / "nothing")
    Enhancer.new(BASE).save(tmp_path / "model")
    text = (tmp_path / "model" / "config.json").read_text()
    (tmp_path / "model" / "config.json").write_text(text.replace('"rate": 4000', '"speed": 4000'))
    with pytest.raises(InputError, match="not that of an enhancer"):
        Enhancer.load(tmp_path / "model")


# --- losses ---


class Answers(nn.Module):
    """In place of a network: what it is asked is kept, what it says is given."""

    def __init__(self, say: Any) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, ...]] = []
        self.say = say
        self.anchor = nn.Parameter(torch.zeros(1))  # says where the model is

    def forward(self, *inputs: Tensor) -> Tensor:
        self.asked.append(inputs)
        return self.say(*inputs)


def with_networks(config: EnhancerConfig, predictive: Any = None, score: Any = None) -> Enhancer:
    model = Enhancer.new(config)
    if predictive is not None:
        model.network.predictive = cast("Any", Answers(predictive))
    if score is not None:
        model.network.score = cast("Any", Answers(score))
    return model


def test_the_published_losses() -> None:
    """J = |x - D|^2 / 4 + |sigma s + z|^2 / 4 with s = -raw / t at x_t of the published mean and deviation."""
    raw = torch.linspace(-1, 1, SPECTRUM.bins * 26).reshape(1, 1, SPECTRUM.bins, 26)
    model = with_networks(
        KINDS["published"], lambda y: 0.5 * y, lambda x, t: raw.expand(len(x), 2, -1, -1) * t[:, None, None, None]
    )
    clean, added = waves(3), waves(3).flip(1)
    batch = Pairs(clean + added, clean)
    loss = model.loss(model.network, batch, Noise(2, range(3)))

    score = cast("Answers", model.network.score)
    seen, log_t = score.asked[0]
    peak = (clean + added).abs().amax(1, keepdim=True)
    x, y = SPECTRUM.encode(clean / peak), SPECTRUM.encode((clean + added) / peak)
    mu, z = 0.5 * y, Noise(2, range(3)).normal(x)
    for row in range(3):
        t = math.exp(float(log_t[row]))
        assert 0.03 <= t <= 1
        log = math.log(10)
        std = math.sqrt(0.05**2 * (10 ** (2 * t) - math.exp(-3 * t)) * log / (1.5 + log))
        mean = math.exp(-1.5 * t) * x[row] + (1 - math.exp(-1.5 * t)) * mu[row]
        torch.testing.assert_close(seen[row, :2], mean + std * z[row], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(seen[row, 2:4], y[row])
        torch.testing.assert_close(seen[row, 4:], mu[row])
        dsm = (std * -raw[0] * (t / t) * float(log_t[row]) / t + z[row]).square().mean() / 2
        want = 0.5 * (x[row] - mu[row]).square().mean() / 2 + 0.5 * dsm
        assert float(loss[row]) == pytest.approx(float(want), rel=1e-4)


@every_kind
def test_a_pair_weighs_the_same_in_any_batch(kind: str) -> None:
    model, batch = stirred(KINDS[kind]), Pairs(waves(4), waves(4).flip(1))
    whole = model.loss(model.network, batch, Noise(1, range(4)))
    part = model.loss(model.network, Pairs(batch.noisy[2:], batch.clean[2:]), Noise(1, [2, 3]))
    torch.testing.assert_close(part, whole[2:], rtol=1e-5, atol=1e-6)


@every_kind
def test_a_pair_weighs_the_same_at_any_volume(kind: str) -> None:
    model, batch, noise = stirred(KINDS[kind]), Pairs(waves(2), waves(2).flip(1)), Noise(1, range(2))
    loud = Pairs(30 * batch.noisy, 30 * batch.clean)
    torch.testing.assert_close(
        model.loss(model.network, loud, noise), model.loss(model.network, batch, noise), rtol=1e-4, atol=1e-6
    )


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0, 1), turn=st.floats(-3, 3), gain=st.floats(0.1, 2))
def test_a_loss_by_magnitude_forgives_phases(share: float, turn: float, gain: float) -> None:
    """|x - D|^2 and (|x| - |D|)^2 of D = gain e^(i turn) x, in closed form."""
    model = Enhancer.new(replace(KINDS["predictive"], by_magnitude=share))
    sound = waves(2)
    x = SPECTRUM.encode(sound / sound.abs().amax(1, keepdim=True))
    turned = gain * torch.stack(
        (x[:, 0] * math.cos(turn) - x[:, 1] * math.sin(turn), x[:, 0] * math.sin(turn) + x[:, 1] * math.cos(turn)), 1
    )
    network = cast("Any", lambda *_: (turned, None))
    found = model.loss(network, Pairs(sound, sound), Noise(0, range(2)))
    whole = 1 + gain**2 - 2 * gain * math.cos(turn)
    want = x.square().sum(1).flatten(1).mean(1) / 4 * ((1 - share) * whole + share * (1 - gain) ** 2)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["storm", "published", "mask"])
def test_both_networks_are_trained_jointly(kind: str) -> None:
    """As published, the diffusion loss reaches the predictive network too."""
    model = Enhancer.new(KINDS[kind])
    for weight in model.network.parameters():
        with torch.no_grad():
            weight.add_(0.1)
    batch = Pairs(waves(2), waves(2).flip(1))
    clean, noisy = (SPECTRUM.encode(wave) for wave in (batch.clean, batch.noisy))
    _, error = model.network(clean, noisy, torch.full((2,), 0.5, dtype=torch.float64), Noise(0, range(2)))
    error.square().mean().backward()
    predictive = model.network.predictive
    assert predictive is not None
    assert any(weight.grad is not None and weight.grad.any() for weight in predictive.parameters())


def test_the_residual_target_has_unit_variance() -> None:
    """EDM's: where x - mu has the deviation that the configuration says, at any time."""
    config = replace(KINDS["sgmse"], spread=0.2)
    network = Networks(config)
    network.score = cast("Any", Answers(lambda x, level: torch.zeros_like(x[:, :2])))
    noisy = torch.zeros(64, 2, 16, 32)
    clean = 0.2 * Noise(4, range(64)).normal(noisy)
    for t in (0.03, 0.3, 1.0):
        _, error = network(clean, noisy, torch.full((64,), t, dtype=torch.float64), Noise(6, range(64)))
        assert error is not None
        assert float(error.square().mean()) == pytest.approx(1.0, rel=0.02)


# --- sampling ---


MEAN, STD = 0.3, 0.1


def posterior(config: EnhancerConfig, mu: Tensor) -> Any:
    """What an ideal network says where x ~ N(mu + MEAN, STD^2), whichever way it is used."""

    def score(seen: Tensor, level: Tensor) -> Tensor:
        if config.parametrisation == "score":
            t = level.double().exp()
            alpha, sigma = config.process(t)
            z = seen[:, :2] - mu
            s = -(z - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
            return (-t * s).to(seen)
        t = config.process.time(-8 * level.double())
        alpha, sigma = config.process(t)
        factor, _ = config.prediction.network_input(alpha, sigma, t)
        assert factor is not None
        z = seen[:, :2] / factor
        x0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (z - alpha * MEAN)
        skip, out = config.prediction.mean(alpha, sigma)
        return ((x0 - skip * z) / out).to(seen)

    return score


@pytest.mark.parametrize("kind", ["sgmse", "storm", "published"])
@pytest.mark.parametrize(
    "solver",
    [dpmpp(2), ddim(eta=1.0), predictor_corrector(0.1), Heun, unipc(2)],
    ids=["dpmpp", "ddim", "pc", "heun", "unipc"],
)
def test_an_ideal_network_gives_the_clean_spectrum(kind: str, solver: Any) -> None:
    """Its mean and spread, whichever way the network is used and whatever the solver; around y, or around D(y)."""
    wave = waves(1)[0]
    peak = wave.abs().max()
    noisy = SPECTRUM.encode((wave / peak)[None])
    mu = noisy if kind == "sgmse" else 0.5 * noisy
    model = with_networks(
        KINDS[kind], None if kind == "sgmse" else (lambda y: 0.5 * y), posterior(KINDS[kind], mu)
    ).frozen()
    found = estimate(model, wave, Sampling(solver, steps=30, draws=24))
    gap = found.draws - mu - MEAN
    # The start lacks alpha(1) MEAN of the mean, of which the flow leaves 0.017; the rest is chance and 30 steps.
    assert float(gap.mean()) == pytest.approx(0, abs=0.03)
    assert float(gap.std()) == pytest.approx(STD, rel=0.25)
    if kind != "sgmse":
        assert found.predictive is not None
        torch.testing.assert_close(found.predictive, mu[0])


def test_a_network_that_says_nothing_leaves_what_it_starts_from() -> None:
    """Preconditioned around mu: before training the posterior mean is near mu, and steps lead there."""
    model = Enhancer.new(replace(KINDS["sgmse"], spread=0.02)).frozen()
    wave = waves(1)[0]
    out = enhance(wave, model, Sampling(steps=10))
    assert float((out - wave).abs().max()) < 0.1 * float(wave.abs().max())


@every_kind
@pytest.mark.parametrize("length", [1, 15, 16, 61, 400])
def test_the_length_is_kept(kind: str, length: int) -> None:
    out = enhance(waves(1, length)[0], stirred(KINDS[kind]), Sampling(steps=2))
    assert out.shape == (length,)
    assert bool(torch.isfinite(out).all())
    assert not out.is_inference()


@every_kind
def test_the_volume_is_kept(kind: str) -> None:
    model, wave, sampling = stirred(KINDS[kind]), waves(1)[0], Sampling(steps=3)
    quiet, loud = enhance(0.01 * wave, model, sampling), enhance(wave, model, sampling)
    torch.testing.assert_close(quiet, 0.01 * loud, rtol=1e-3, atol=1e-6)


@every_kind
def test_silence_stays_silent(kind: str) -> None:
    assert not bool(enhance(torch.zeros(300), stirred(KINDS[kind]), Sampling(draws=2)).any())


@pytest.mark.parametrize("kind", ["sgmse", "storm"])
def test_randomness_is_keyed(kind: str) -> None:
    """By the seed and the number of the sound; a draw does not depend on how many there are."""
    model, wave = stirred(KINDS[kind]), waves(1)[0]
    solver = predictor_corrector()
    run = partial(estimate, model, wave)
    one = run(Sampling(solver, 3, draws=1), 4).draws
    three = run(Sampling(solver, 3, draws=3), 4).draws
    torch.testing.assert_close(three[:1], one, rtol=1e-4, atol=1e-5)
    assert torch.equal(run(Sampling(solver, 3), 4).draws, one)
    for other in (run(Sampling(solver, 3, seed=1), 4).draws, run(Sampling(solver, 3), 5).draws, three[1:2]):
        assert float((other - one).abs().mean()) > 1e-3


@pytest.mark.parametrize(
    ("solver", "steps", "expected"), [(dpmpp(2), 8, 8), (predictor_corrector(), 30, 60), (Heun, 10, 19), (ddim(), 1, 1)]
)
def test_evaluations_are_counted_honestly(solver: Any, steps: int, expected: int) -> None:
    sampling = Sampling(solver, steps)
    for kind, more in (("sgmse", 0), ("storm", 1)):
        model, asked = stirred(KINDS[kind]), list[None]()
        estimate(model, waves(1)[0], sampling, report=lambda asked=asked: asked.append(None))
        assert len(asked) == evaluations(model.config, sampling) == expected + more
    assert evaluations(KINDS["predictive"], sampling) == 1


def test_times_are_the_published_ones() -> None:
    times = Sampling(steps=30).times(0.03)
    assert len(times) == 31
    torch.testing.assert_close(times[:-1], torch.linspace(1, 0.03, 30, dtype=torch.float64))
    assert float(times[-1]) == 0
    assert Sampling(steps=1, start=0.5).times(0.03).tolist() == [0.5, 0.0]


def test_what_cannot_be_sampled_is_refused() -> None:
    for name, value in (("steps", 0), ("draws", 0), ("start", 0.0), ("start", 1.5)):
        wrong: dict[str, Any] = {name: value}
        with pytest.raises(InputError, match=name):
            Sampling(**wrong)
    with pytest.raises(InputError, match=r"start must be above 0\.03"):
        Sampling(start=0.02).times(0.03)
    model = stirred(BASE)
    for wave in (torch.tensor([1.0, math.nan]), torch.zeros(0), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="finite samples"):
            enhance(wave, model)


def test_a_run_that_diverges_is_one_sentence() -> None:
    model = with_networks(KINDS["sgmse"], score=lambda x, level: x[:, :2] * math.inf).frozen()
    with pytest.raises(InputError, match="sampling diverged"):
        enhance(waves(1)[0], model)


def test_spectra_become_sound_again() -> None:
    model, wave = stirred(BASE), waves(1)[0]
    spectra = SPECTRUM.encode((wave / 2.0)[None])
    torch.testing.assert_close(sound_of(model, spectra, 2.0, 400)[0], wave, rtol=1e-3, atol=1e-5)


def test_the_point_of_a_denoiser_is_of_the_data() -> None:
    """`given` hands out E[x0 | x_t] of the uncentred state, once and for all of a run."""
    model = stirred(BASE)
    noisy = SPECTRUM.encode(waves(1))
    mu, denoiser, predictive = model.given(noisy)
    assert predictive is mu
    with torch.no_grad():
        point = denoiser(mu, torch.tensor(1e-3, dtype=torch.float64))
    assert isinstance(point, Point)
    # Where there is hardly noise the state is what is meant.
    torch.testing.assert_close(point.mean, mu, rtol=0, atol=0.02)
