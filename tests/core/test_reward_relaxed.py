"""The relaxed trajectory: its hard limit, its gradient against a plain loop, its memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from degauss.core.errors import InputError
from degauss.core.jump import Absorbing, Subs
from degauss.core.jump.oracle import ancestral_steps, number_of, sampler_law, sequences
from degauss.core.noise import Noise
from degauss.core.reward.audit import total_variation
from degauss.core.reward.kl import step_divergence
from degauss.core.reward.relaxed import GumbelSoftmax, Joint, Rolled, Rollout, Step, Timed, one_hot

DOUBLE = torch.float64
V, L, BATCH = 4, 5, 6
PROCESS = Absorbing(V)
START = torch.full((BATCH, L), V)
STEPS = [Joint, Timed]
names = ["joint", "timed"]


@pytest.fixture(autouse=True)
def in_double() -> object:
    """Gradients are compared to many digits."""
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


class Mixing(nn.Module):
    """A small network of weights in which every position sees every other."""

    def __init__(self, seed: int, hidden: int = 8) -> None:
        super().__init__()
        self.shapes = [(L * (V + 1), hidden), (hidden, L * V)]
        draws = [Noise(seed, (k,)).normal(torch.empty(1, *shape))[0] for k, shape in enumerate(self.shapes)]
        self.first, self.second = (nn.Parameter(draw.to(torch.get_default_dtype())) for draw in draws)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        weights = x if x.is_floating_point() else one_hot(x, V, self.first.dtype)
        return (torch.tanh(weights.flatten(1) @ self.first + t) @ self.second).unflatten(1, (L, V))


def reward(tokens: Tensor) -> Tensor:
    """A smooth function of weights, not linear."""
    wanted = torch.linspace(-1, 1, L * V, dtype=tokens.dtype).reshape(L, V)
    return torch.sin((tokens * wanted).sum((1, 2))) + tokens[:, 0].square().sum(-1)


def rolled(step: Step, *, steps: int = 6, truncate: int | None = None, checkpointing: bool = False) -> Rolled:
    rollout = Rollout(PROCESS, steps, step, truncate=truncate, checkpointing=checkpointing)
    return rollout(Mixing(1), Mixing(2), START, Noise(3, range(BATCH)))


def gradient(step: Step, *, truncate: int | None = None, checkpointing: bool = False) -> Tensor:
    network = Mixing(1)
    rollout = Rollout(PROCESS, 6, step, truncate=truncate, checkpointing=checkpointing)
    end = rollout(network, Mixing(2), START, Noise(3, range(BATCH)))
    loss = (reward(end.tokens) - 0.3 * end.divergence.sum(0)).sum()
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))])


@pytest.mark.parametrize("make", STEPS, ids=names)
def test_the_limit_of_a_cold_draw_is_the_hard_step_with_the_same_noise(make: type[Joint] | type[Timed]) -> None:
    hard = rolled(make(GumbelSoftmax(1.0, True)))
    cold = rolled(make(GumbelSoftmax(1e-6, False)))
    warm = rolled(make(GumbelSoftmax(3.0, False)))
    torch.testing.assert_close(cold.tokens, hard.tokens)
    torch.testing.assert_close(cold.divergence, hard.divergence, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(warm.divergence, hard.divergence, rtol=0.01)


def test_straight_through_is_hard_with_the_derivative_of_soft() -> None:
    log_prob = Noise(1, range(50)).normal(torch.empty(50, V)).requires_grad_()
    u = Noise(2, range(50)).uniform(torch.empty(50, V))
    hard, soft = GumbelSoftmax(0.7, True)(log_prob, u), GumbelSoftmax(0.7, False)(log_prob, u)
    assert torch.equal(hard, torch.nn.functional.one_hot(soft.argmax(-1), V).to(hard.dtype))
    direction = torch.arange(V, dtype=hard.dtype)
    found, expected = (torch.autograd.grad((draw @ direction).sum(), log_prob)[0] for draw in (hard, soft))
    torch.testing.assert_close(found, expected)


def test_a_draw_has_the_law_of_its_logits() -> None:
    p = torch.tensor([0.5, 0.25, 0.2, 0.05])
    drawn = GumbelSoftmax()(p.log().expand(40000, V), Noise(5, range(40000)).uniform(torch.empty(40000, V)))
    torch.testing.assert_close(drawn.mean(0), p, rtol=0, atol=0.01)


@pytest.mark.parametrize("make", STEPS, ids=names)
def test_hard_trajectories_have_the_law_of_ancestral_steps(make: type[Joint] | type[Timed]) -> None:
    length, symbols, vocabulary, count = 2, 3, 2, 20000
    table = 1.5 * Noise(1, (0,)).normal(torch.empty(1, symbols**length, length, vocabulary))[0]
    process = Absorbing(vocabulary)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return table[number_of(x.argmax(-1) if x.is_floating_point() else x, symbols)]

    start = torch.zeros(symbols**length)
    start[-1] = 1
    step = ancestral_steps(Subs(network, process), process)
    law = sampler_law(start, step, symbols, torch.linspace(1, 0, 4), length)
    rollout = Rollout(process, 3, make(GumbelSoftmax(1.0, True)))
    with torch.no_grad():
        end = rollout(network, network, torch.full((count, length), vocabulary), Noise(8, range(count)))
    numbers = number_of(end.tokens.argmax(-1), vocabulary)
    drawn = torch.bincount(numbers, minlength=vocabulary**length) / count
    exact = law[number_of(sequences(vocabulary, length), symbols)]
    assert float(exact.sum()) == pytest.approx(1)
    assert total_variation(drawn, exact) < 0.015


def plain_loop(step: Step, network: nn.Module, reference: nn.Module, live: int) -> tuple[Tensor, Tensor]:
    """The same trajectory, written out: soft end weights over tokens, and the divergence of the live steps."""
    weights = one_hot(START, V, DOUBLE)
    noise, divergence = Noise(3, range(BATCH)), torch.zeros(BATCH)
    for i in range(6):
        now = step if i >= 6 - live else step.hard()
        late, early = 1 - i / 6, 1 - (i + 1) / 6 if i < 5 else 0.0
        if i == 6 - live:
            weights = weights.detach()
        logits = network(weights, torch.tensor(late))
        cost = step_divergence(logits, reference(weights, torch.tensor(late)), weights, late, early)
        divergence = divergence + (cost if i >= 6 - live else cost.detach())
        weights = now(weights, logits, late, early, noise, i)
    return weights[..., :V], divergence


@pytest.mark.parametrize("make", STEPS, ids=names)
@pytest.mark.parametrize("live", [1, 3, 6])
def test_the_gradient_is_that_of_finite_differences_on_the_smooth_trajectory(
    make: type[Joint] | type[Timed], live: int
) -> None:
    """A linear function of the end, whose straight-through derivative is that of the soft end.

    Early steps are hard: for them the model that moves is held where it was.
    """
    step = make(GumbelSoftmax(0.8, False))
    wanted = torch.linspace(-1, 1, L * V).reshape(L, V)
    network, reference = Mixing(1), Mixing(2)
    end = Rollout(PROCESS, 6, step, truncate=live, checkpointing=True)(
        network, reference, START, Noise(3, range(BATCH))
    )
    loss = ((end.tokens * wanted).sum((1, 2)) - 0.3 * end.divergence.sum(0)).sum()
    found = torch.autograd.grad(loss, network.first)[0]

    direction = Noise(9, (0,)).normal(torch.empty(1, *network.first.shape))[0]

    def moved(h: float) -> float:
        mixed = Mixing(1)
        held = Mixing(1)
        with torch.no_grad():
            mixed.first.add_(h * direction)

        def switching(weights: Tensor, t: Tensor) -> Tensor:
            return (mixed if float(t) <= live / 6 + 1e-9 else held)(weights, t)

        with torch.no_grad():
            tokens, divergence = plain_loop(step, switching, reference, live)  # pyright: ignore[reportArgumentType]
            return float(((tokens * wanted).sum((1, 2)) - 0.3 * divergence).sum())

    h = 1e-5
    assert float((found * direction).sum()) == pytest.approx((moved(h) - moved(-h)) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("make", STEPS, ids=names)
@pytest.mark.parametrize("truncate", [None, 4], ids=["all steps", "the last four"])
@pytest.mark.parametrize("hard", [False, True], ids=["soft", "straight through"])
def test_checkpointing_changes_no_gradient(make: type[Joint] | type[Timed], truncate: int | None, hard: bool) -> None:
    step = make(GumbelSoftmax(0.8, hard))
    plain, recomputed = (gradient(step, truncate=truncate, checkpointing=on) for on in (False, True))
    assert float(plain.norm()) > 0.01
    torch.testing.assert_close(recomputed, plain, rtol=1e-12, atol=1e-14)


def test_all_steps_carry_gradient_unless_truncated() -> None:
    step = Timed(GumbelSoftmax(0.8, True))
    torch.testing.assert_close(gradient(step, truncate=6), gradient(step))
    assert not torch.allclose(gradient(step, truncate=3), gradient(step), rtol=0.01)


@pytest.mark.parametrize("make", STEPS, ids=names)
def test_truncation_does_not_change_hard_trajectories(make: type[Joint] | type[Timed]) -> None:
    step = make(GumbelSoftmax(1.0, True))
    torch.testing.assert_close(rolled(step, truncate=2), rolled(step), rtol=0, atol=0)


@pytest.mark.parametrize("make", STEPS, ids=names)
def test_a_sample_does_not_depend_on_its_batch(make: type[Joint] | type[Timed]) -> None:
    rollout = Rollout(PROCESS, 6, make())
    whole = rollout(Mixing(1), Mixing(2), START, Noise(3, range(BATCH)))
    part = rollout(Mixing(1), Mixing(2), START[:2], Noise(3, [4, 1]))
    torch.testing.assert_close(part.tokens, whole.tokens[[4, 1]])
    torch.testing.assert_close(part.divergence, whole.divergence[:, [4, 1]])


@pytest.mark.parametrize("make", STEPS, ids=names)
def test_given_positions_stay(make: type[Joint] | type[Timed]) -> None:
    start = START.clone()
    start[:, 2] = 3
    end = Rollout(PROCESS, 6, make())(Mixing(1), Mixing(2), start, Noise(3, range(BATCH)))
    assert torch.equal(end.tokens[:, 2], torch.nn.functional.one_hot(torch.tensor(3), V).to(DOUBLE).expand(BATCH, V))
    torch.testing.assert_close(end.tokens.sum(-1), torch.ones(BATCH, L))


def test_timed_states_have_the_masks_of_hard_ones_and_joint_states_stay_masked() -> None:
    """The mean masked mass halfway at temperature 1: one half with exact times, far more in the published form."""
    masses: dict[type, float] = {}
    rows, steps = 512, 32
    for make in (Joint, Timed):
        seen: list[float] = []

        def watched(network: nn.Module, seen: list[float], weights: Tensor, t: Tensor) -> Tensor:
            seen.append(float(weights[..., -1].mean()))
            return network(weights, t)

        with torch.no_grad():
            Rollout(PROCESS, steps, make(GumbelSoftmax(1.0, False)), checkpointing=False)(
                partial(watched, Mixing(1), seen), Mixing(2), torch.full((rows, L), V), Noise(3, range(rows))
            )
        masses[make] = seen[steps // 2]
    assert masses[Timed] == pytest.approx(0.5, abs=0.04)
    assert masses[Joint] > 0.7


def test_bad_numbers_are_named() -> None:
    with pytest.raises(InputError, match="temperature must be above 0"):
        GumbelSoftmax(0.0)
    with pytest.raises(InputError, match="truncate must be between 1 and 6"):
        Rollout(PROCESS, 6, Timed(), truncate=7)
    with pytest.raises(InputError, match="steps must be at least 1"):
        Rollout(PROCESS, 0, Timed())


class Deep(nn.Module):
    """Far more numbers inside than at the ends, 128 x 24 a position, as in the networks of DNA models."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(V + 1, 128), nn.Linear(128, V)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        inside = self.first(x)
        for _ in range(24):
            inside = torch.tanh(inside)
        return self.head(inside)


def peak(run: Callable[[], object]) -> int:
    """The most bytes that torch's allocator held at once, above those before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            run()
    held = most = 0
    events: Any = record.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.slow
@pytest.mark.parametrize("make", STEPS, ids=names)
def test_memory_is_flat_in_the_number_of_steps_with_checkpointing(make: type[Joint] | type[Timed]) -> None:
    torch.set_default_dtype(torch.float32)
    network, reference = Deep(), Deep().requires_grad_(False)
    start = torch.full((8, 64), V)

    def backward(steps: int, checkpointing: bool) -> None:
        step = make(GumbelSoftmax(1.0, make is Timed))
        rollout = Rollout(PROCESS, steps, step, checkpointing=checkpointing)
        end = rollout(network, reference, start, Noise(1, range(8)))
        (end.divergence.sum() - end.tokens[..., 0].sum()).backward()
        network.zero_grad()

    backward(2, True)  # what is allocated once
    few, many = (peak(partial(backward, steps, True)) for steps in (16, 128))
    assert many / few < 1.2
    plain = [peak(partial(backward, steps, False)) for steps in (4, 16)]
    assert plain[1] > 3 * plain[0]
    assert plain[1] > 3 * many
