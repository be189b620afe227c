"""Classifier-free guidance against closed forms, two calls against one batch, and a library's rescaling."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from degauss.core import EDM, Cosine, LinearVP, Noise, RectifiedFlow, Schedule, SubVP, sample, simulate
from degauss.core.denoiser import X0, Eps, Karras, Prediction, V, eps_prediction
from degauss.core.gaussian import Heun, ddim, dpmpp, unipc
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.guide.classifier_free import (
    Answers,
    Extrapolated,
    Interval,
    Rescaled,
    TwoConditions,
    TwoModels,
    classifier_free,
    within,
)
from degauss.core.oracle import GaussianOracle, MixtureOracle
from degauss.core.posterior import Point

DOUBLE = torch.float64
VP = LinearVP()
SCHEDULES = st.sampled_from([LinearVP(), Cosine(), RectifiedFlow(), SubVP(), EDM(20.0)])
HALF = torch.tensor(0.5, dtype=DOUBLE)


def batch(rows: int = 4, dim: int = 6, seed: int = 0) -> Tensor:
    return Noise(seed, range(rows)).normal(torch.empty(rows, dim, dtype=DOUBLE))


def classes(schedule: Schedule = VP) -> tuple[MixtureOracle, MixtureOracle]:
    """One class, and the mixture of three."""
    means = 2 * batch(3, 2, seed=3)
    covariances = torch.stack([torch.eye(2, dtype=DOUBLE) * s for s in (0.2, 0.5, 1.0)])
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=DOUBLE)
    return (
        MixtureOracle(schedule, weights[:1], means[:1], covariances[:1]),
        MixtureOracle(schedule, weights, means, covariances),
    )


@settings(deadline=None, max_examples=30)
@given(SCHEDULES, st.floats(0.05, 0.95), st.floats(-1.0, 8.0))
def test_the_guided_score_is_that_of_the_tilted_density(schedule: Schedule, time: float, scale: float) -> None:
    one, every = classes(schedule)
    x, t = batch(5, 2).requires_grad_(True), torch.tensor(time, dtype=DOUBLE)
    tilted = scale * one.log_density(x, t) + (1 - scale) * every.log_density(x, t)
    (score,) = torch.autograd.grad(tilted.sum(), x)
    alpha, sigma = schedule(t)
    guided = Extrapolated(TwoModels(one, every), scale)(x.detach(), t).mean
    torch.testing.assert_close((alpha * guided - x.detach()) / sigma**2, score, rtol=1e-7, atol=1e-7)


def test_two_gaussians_make_a_gaussian() -> None:
    """p_c^w p_u^(1-w) of N(m, s^2) and N(0, 1) has precision w / v_c + (1 - w) / v_u at each noise level."""
    scale, t, x = 3.0, torch.tensor([0.1, 0.4, 0.7, 0.99], dtype=DOUBLE), batch()
    one, every = GaussianOracle(VP, 1.5, 0.5), GaussianOracle(VP, 0.0, 1.0)
    alpha, sigma = (scales[:, None] for scales in VP(t))
    v_c, v_u = alpha**2 * 0.25 + sigma**2, alpha**2 + sigma**2
    precision = scale / v_c + (1 - scale) / v_u
    centre = scale * alpha * 1.5 / v_c / precision
    expected = (x - sigma**2 * precision * (x - centre)) / alpha
    torch.testing.assert_close(Extrapolated(TwoModels(one, every), scale)(x, t).mean, expected)


def test_scale_one_is_conditional_and_zero_unconditional() -> None:
    one, every = classes()
    x = batch(5, 2)
    for scale, expected in ((1.0, one), (0.0, every), (torch.ones(5), one), (torch.zeros(5), every)):
        assert torch.equal(Extrapolated(TwoModels(one, every), scale)(x, HALF).mean, expected(x, HALF).mean)


def test_each_sample_may_have_its_own_scale() -> None:
    contrast, x = TwoModels(*classes()), batch(5, 2)
    scales = [0.0, 0.5, 1.0, 3.0, 7.5]
    together = Extrapolated(contrast, torch.tensor(scales, dtype=DOUBLE))(x, HALF).mean
    for row, scale in enumerate(scales):
        torch.testing.assert_close(together[row], Extrapolated(contrast, scale)(x, HALF).mean[row])


class Net(nn.Module):
    """A network on a label, a list of embeddings and a switch, that counts the rows it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.label = nn.Embedding(4, 6)
        self.mix = nn.Linear(13, 6)
        self.rows: list[int] = []
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, *, label: Tensor, tree: dict[str, Any], mode: str) -> Tensor:
        assert mode == "fast"
        self.rows.append(len(x))
        self.seen.append(label)
        shift = self.label(label) + tree["more"][0] + tree["more"][1][0]
        return torch.tanh(self.mix(torch.cat([x, shift, t.expand(len(x))[:, None]], 1)))


def conditions(rows: int = 4) -> tuple[dict[str, Any], dict[str, Any]]:
    more = [batch(rows, seed=5), (batch(rows, seed=6),)]
    null = [torch.zeros(1, 6, dtype=DOUBLE), (torch.zeros(rows, 6, dtype=DOUBLE),)]
    yes = {"label": torch.arange(rows) % 3, "tree": {"more": more}, "mode": "fast"}
    no = {"label": torch.tensor([3]), "tree": {"more": null}, "mode": "fast"}
    return yes, no


@pytest.mark.parametrize("t", [HALF, torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=DOUBLE)])
def test_one_batch_is_two_calls(t: Tensor) -> None:
    net, (yes, no) = Net().double(), conditions()
    denoiser, x = eps_prediction(net, VP), batch()
    two = TwoModels(partial(denoiser, **yes), partial(denoiser, **no))
    one = TwoConditions(denoiser, yes, no)
    net.rows.clear()
    got = one(x, t)
    assert net.rows == [8]
    for a, b in zip(got, two(x, t), strict=True):
        torch.testing.assert_close(a, b)
    assert (got.strong - got.weak).abs().max() > 1e-2


def test_conditions_are_put_together_once() -> None:
    net, (yes, no) = Net().double(), conditions()
    guided = classifier_free(eps_prediction(net, VP), yes, no, 3.0)
    grid = uniform_time(VP, 5, start=0.9, end=0.1)
    sample(guided, VP, (4, 6), solver=ddim(), steps=5, grid=grid, dtype=DOUBLE)
    assert net.rows == [8] * 5
    assert len({label.data_ptr() for label in net.seen}) == 1


def test_what_the_call_adds_goes_to_both_answers() -> None:
    def denoiser(x: Tensor, t: Tensor, /, **cond: Tensor) -> Point:
        del t
        return Point(x * cond["a"] + cond["b"])

    columns = {key: batch(4, 1, seed=seed) for seed, key in enumerate(("a", "c", "b"))}
    answers = TwoConditions(denoiser, {"a": columns["a"]}, {"a": columns["c"]})(batch(), HALF, b=columns["b"])
    torch.testing.assert_close(answers.strong, batch() * columns["a"] + columns["b"])
    torch.testing.assert_close(answers.weak, batch() * columns["c"] + columns["b"])


@pytest.mark.parametrize(
    ("yes", "no", "message"),
    [
        ({"y": torch.ones(4)}, {"z": torch.ones(4)}, r"keys \['y'\] and \['z'\]"),
        ({"y": torch.ones(4)}, {"y": torch.ones(3)}, r"cond\['y'\]: .* 4 rows or one, got \(4,\) and \(3,\)"),
        ({"y": torch.ones(4, 2)}, {"y": torch.ones(1, 3)}, r"\(4, 2\) and \(1, 3\)"),
        ({"y": torch.tensor(1.0)}, {"y": torch.tensor(0.0)}, "rows"),
        ({"y": "cat"}, {"y": None}, r"'cat' and None cannot share a batch; .*TwoModels"),
        ({"y": [torch.ones(4)]}, {"y": []}, "1 and 0 entries"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(yes: dict[str, Any], no: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TwoConditions(GaussianOracle(VP), yes, no)


def test_a_batch_of_another_size_is_refused() -> None:
    contrast = TwoConditions(GaussianOracle(VP), {"y": torch.ones(3)}, {"y": torch.zeros(1)})
    with pytest.raises(ValueError, match="for 3 samples, but the batch has 4"):
        contrast(batch(), HALF)


def in_prediction(prediction: Prediction, mean: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """F of a posterior mean."""
    (alpha, sigma), (u, w) = VP(t), prediction.target(*VP(t))
    return u * mean + w * (x - alpha * mean) / sigma


def wide_contrast() -> TwoModels:
    return TwoModels(GaussianOracle(VP, batch(1, 6, seed=8), 0.5), GaussianOracle(VP, 0.1, 1.5))


@pytest.mark.parametrize("prediction", [V(), Eps(), X0(), Karras(0.7)])
@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
def test_rescaling_is_that_of_diffusers_on_the_same_prediction(prediction: Prediction, phi: float) -> None:
    library = pytest.importorskip("diffusers.guiders.guider_utils", reason="diffusers is the reference here")
    contrast, x, t = wide_contrast(), batch(), torch.tensor(0.6, dtype=DOUBLE)
    got = Rescaled(contrast, VP, 7.5, phi, prediction)(x, t).mean
    answers = contrast(x, t)
    strong, weak = (in_prediction(prediction, mean, x, t) for mean in answers)
    expected = library.rescale_noise_cfg(weak + 7.5 * (strong - weak), strong, phi)
    torch.testing.assert_close(in_prediction(prediction, got, x, t), expected)


@pytest.mark.parametrize("prediction", [V(), Eps(), X0()])
def test_full_rescaling_restores_the_spread_of_each_sample_and_none_does_nothing(prediction: Prediction) -> None:
    contrast, x, t = wide_contrast(), batch(), torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=DOUBLE)
    got = Rescaled(contrast, VP, 7.5, 1.0, prediction)(x, t).mean
    for row in range(4):
        here = (x[row], t[row])
        spread = in_prediction(prediction, got[row], *here).std()
        strong = in_prediction(prediction, contrast(x, t).strong[row], *here).std()
        torch.testing.assert_close(spread, strong)
    plain = Extrapolated(contrast, 7.5)(x, t).mean
    torch.testing.assert_close(Rescaled(contrast, VP, 7.5, 0.0, prediction)(x, t).mean, plain)


def test_at_pure_noise_rescaling_v_is_rescaling_the_data() -> None:
    def answers(x: Tensor, t: Tensor, /, **cond: Any) -> Answers:
        del t, cond
        return Answers(torch.tanh(x), torch.tanh(x) - batch(seed=9))

    x, t = batch(), torch.tensor(1.0, dtype=DOUBLE)
    assert float(Cosine()(t).alpha) == 0
    data = Rescaled(answers, Cosine(), 7.5, 0.7, X0())(x, t).mean
    torch.testing.assert_close(Rescaled(answers, Cosine(), 7.5)(x, t).mean, data)


def test_a_constant_prediction_is_left_alone_and_has_a_gradient() -> None:
    def answers(x: Tensor, t: Tensor, /, **cond: Any) -> Answers:
        del t, cond
        return Answers(torch.cat([x[:1] * 0 + 1, x[1:]]), torch.cat([x[:1] * 0, 0.5 * x[1:] ** 2]))

    x = batch().requires_grad_(True)
    got = Rescaled(answers, VP, 3.0, 1.0, X0())(x, HALF).mean
    torch.testing.assert_close(got[0], torch.full((6,), 3.0, dtype=DOUBLE))
    (gradient,) = torch.autograd.grad(got.sum(), x)
    assert torch.isfinite(gradient).all()
    assert gradient[1:].abs().min() > 0


class Counted:
    """A denoiser that counts its evaluations."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        self.calls += 1
        return self.denoiser(x, t, **cond)


GRID = uniform_log_snr(VP, 12, end=1e-3)
SOLVERS = [ddim(), ddim(eta=1.0), dpmpp(2), dpmpp(3, eta=1.0), unipc(3)]


def run(kernel: Any, rows: range = range(5), grid: Tensor = GRID) -> Tensor:
    noise = Noise(2, rows)
    return simulate(kernel, noise.normal(torch.empty(len(rows), 2, dtype=DOUBLE)), grid, noise)


@pytest.mark.parametrize("solver", [*SOLVERS, Heun], ids=str)
def test_an_interval_of_everything_is_guided_and_one_of_nothing_is_not(solver: Any) -> None:
    one, every = classes()
    guided = Extrapolated(TwoModels(one, every), 3.0)
    plain, full = (run(solver(denoiser, VP)) for denoiser in (one, guided))
    assert torch.equal(run(Interval(one, VP, guided, solver)), full)
    assert torch.equal(run(Interval(one, VP, guided, solver, low=1e9)), plain)
    assert torch.equal(run(Interval(one, VP, guided, solver, high=1e-9)), plain)
    assert (full - plain).abs().max() > 0.1


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_an_interval_is_a_denoiser_that_looks_at_the_time(solver: Any) -> None:
    one, every = classes()
    guided, low, high = Extrapolated(TwoModels(one, every), 3.0), 0.3, 3.0

    def looking(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        del cond
        alpha, sigma = VP(t)
        return guided(x, t) if low < float(sigma / alpha) <= high else one(x, t)

    assert torch.equal(run(Interval(one, VP, guided, solver, low, high)), run(solver(looking, VP)))


def test_an_interval_saves_the_second_evaluation() -> None:
    one, every = classes()
    first, second = Counted(one), Counted(every)
    guided = Extrapolated(TwoModels(first, second), 3.0)
    solver = partial(Interval, inside=guided, solver=dpmpp(), low=0.3, high=3.0)
    sample(first, VP, (3, 2), solver=solver, steps=12, grid=GRID, dtype=DOUBLE)
    assert first.calls == 12
    assert second.calls == sum(within(VP, GRID, 0.3, 3.0))
    assert 2 <= second.calls <= 8


def test_the_interval_is_open_below_and_closed_above() -> None:
    grid = torch.tensor([0.8, 0.4, 0.2, 0.1], dtype=DOUBLE)
    assert within(EDM(10.0), grid, 2.0, 8.0) == (True, True, False)
    assert within(Cosine(), uniform_time(VP, 3), 0.0, math.inf) == (True, True, True)  # from pure noise on


def last(cond: dict[str, Any], rows: int) -> dict[str, Any]:
    """The conditions of the last rows."""
    first, (second,) = cond["tree"]["more"]
    return {**cond, "label": cond["label"][-rows:], "tree": {"more": [first[-rows:], (second[-rows:],)]}}


def test_samples_do_not_depend_on_their_batch() -> None:
    one, every = classes()
    guided = Rescaled(TwoModels(one, every), VP, torch.tensor(3.0), 0.7, X0())
    kernel = Interval(one, VP, guided, ddim(eta=1.0), 0.1, 5.0)
    whole = run(kernel, range(6))
    torch.testing.assert_close(run(kernel, range(2, 5)), whole[2:5], rtol=1e-12, atol=1e-12)
    net, (yes, no) = Net().double(), conditions(6)
    denoiser, x = eps_prediction(net, VP), batch(6)
    all_rows = classifier_free(denoiser, yes, no, 4.0)(x, HALF).mean
    part = classifier_free(denoiser, last(yes, 3), last(no, 3), 4.0)(x[-3:], HALF).mean
    torch.testing.assert_close(part, all_rows[-3:])


def test_gradients_reach_the_state_the_conditions_and_the_network() -> None:
    net, (yes, no) = Net().double(), conditions()
    embedding = yes["tree"]["more"][0].requires_grad_(True)
    x = batch().requires_grad_(True)
    guided = Rescaled(TwoConditions(eps_prediction(net, VP), yes, no), VP, 3.0)
    guided(x, HALF).mean.square().sum().backward()
    for tensor in (x, embedding, net.mix.weight):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


def test_guidance_compiles_without_a_graph_break() -> None:
    weights = batch(6, 6, seed=4)

    def network(x: Tensor, t: Tensor, *, y: Tensor) -> Tensor:
        return torch.tanh(x @ weights + y * t)

    contrast = TwoConditions(eps_prediction(network, VP), {"y": batch(seed=5)}, {"y": torch.zeros(1, 6, dtype=DOUBLE)})
    for guided in (Extrapolated(contrast, 3.0), Rescaled(contrast, VP, 3.0)):
        compiled = torch.compile(lambda x, t, guided=guided: guided(x, t).mean, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(batch(), HALF), guided(batch(), HALF).mean)
