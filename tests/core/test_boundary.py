"""Optimal boundary conditions on conditional data whose probability-flow map is known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core import Cosine, InputError, Noise, Point, Schedule, sample
from degauss.core.denoiser import expand
from degauss.core.gaussian import unipc
from degauss.core.gaussian.boundary import OptimalStart, mean_square, optimal_start, start_errors
from degauss.core.grid import uniform_time
from degauss.core.oracle import GaussianOracle

DOUBLE = torch.float64
SCHEDULE = Cosine()
GRID = uniform_time(SCHEDULE, 200)
EVENT, STD = 3, 0.4


@dataclass(frozen=True)
class Conditional:
    """x0 | y ~ N(y, STD^2): the flow takes unit noise z at alpha = 0 to y + STD z."""

    schedule: Schedule

    def __call__(self, x: Tensor, t: Tensor, /, *, y: Tensor, **cond: Any) -> Point:
        del cond
        return GaussianOracle(self.schedule, y, STD)(x, t)


def pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clean data and their conditions."""
    noise = Noise(seed, range(count))
    like = torch.empty(count, EVENT, dtype=DOUBLE)
    y = noise.normal(like)
    return y + STD * noise.normal(like, draw=1), y


def choose(clean: Tensor, y: Tensor, **options: Any) -> OptimalStart:
    defaults: dict[str, Any] = {"solver": unipc(), "grid": GRID, "candidates": 20, "seed": 5}
    return optimal_start(Conditional(SCHEDULE), SCHEDULE, clean, {"y": y}, **{**defaults, **options})


def candidate(sample: int, seed: int = 5) -> Tensor:
    return Noise(seed, [sample]).normal(torch.empty(1, EVENT, dtype=DOUBLE))[0]


def test_errors_are_those_of_the_closed_form() -> None:
    clean, y = pairs(6, 1)
    errors = start_errors(
        Conditional(SCHEDULE), SCHEDULE, clean, {"y": y}, solver=unipc(), grid=GRID, samples=[0, 7], seed=5
    )
    want = torch.stack([(y + STD * candidate(sample) - clean).pow(2).mean(1) for sample in (0, 7)])
    torch.testing.assert_close(errors, want, rtol=1e-3, atol=1e-4)


def test_chooses_the_candidate_of_least_error() -> None:
    clean, y = pairs(6, 1)
    start = choose(clean, y)
    want = [float((y + STD * candidate(sample) - clean).pow(2).mean()) for sample in range(20)]
    assert start.errors == pytest.approx(want, rel=1e-3)
    assert start.sample == min(range(20), key=lambda k: want[k])
    assert start.error == min(start.errors)


def test_the_choice_serves_other_conditions_less_well_than_it_says() -> None:
    """It beats most other starts on pairs it has not seen, with an error above the one it was chosen by."""
    clean, y = pairs(3, 1)
    start = choose(clean, y, candidates=100)
    fresh, condition = pairs(500, 2)
    errors = start_errors(
        Conditional(SCHEDULE), SCHEDULE, fresh, {"y": condition}, solver=unipc(), grid=GRID, samples=range(20), seed=9
    ).mean(1)
    held_out = start_errors(
        Conditional(SCHEDULE),
        SCHEDULE,
        fresh,
        {"y": condition},
        solver=unipc(),
        grid=GRID,
        samples=[start.sample],
        seed=start.seed,
    ).mean()
    assert float(held_out) < float(errors.median())
    assert float(held_out) > start.error


def test_sampling_starts_from_the_chosen_noise() -> None:
    clean, y = pairs(6, 1)
    start = choose(clean, y)
    _, other = pairs(4, 3)
    x = sample(
        Conditional(SCHEDULE),
        SCHEDULE,
        (4, EVENT),
        solver=unipc(),
        steps=200,
        seed=start.seed,
        samples=start.samples(4),
        cond={"y": other},
        dtype=DOUBLE,
    )
    torch.testing.assert_close(x, other + STD * candidate(start.sample), rtol=1e-3, atol=1e-3)


def test_any_distance_may_choose() -> None:
    clean, y = pairs(6, 1)

    def first_entry(x: Tensor, goal: Tensor) -> Tensor:
        return (x - goal)[:, 0].abs()

    start = choose(clean, y, distance=first_entry)
    want = [float((y + STD * candidate(sample) - clean)[:, 0].abs().mean()) for sample in range(20)]
    assert start.sample == min(range(20), key=lambda k: want[k])


def test_a_pair_does_not_depend_on_the_other_pairs() -> None:
    clean, y = pairs(6, 1)
    options: dict[str, Any] = {"solver": unipc(), "grid": GRID, "samples": [2]}
    whole = start_errors(Conditional(SCHEDULE), SCHEDULE, clean, {"y": y}, **options)
    part = start_errors(Conditional(SCHEDULE), SCHEDULE, clean[2:4], {"y": y[2:4]}, **options)
    torch.testing.assert_close(part, whole[:, 2:4], rtol=1e-12, atol=1e-12)


def test_mean_square_is_over_the_event() -> None:
    x = torch.arange(12.0).reshape(2, 2, 3)
    torch.testing.assert_close(mean_square(x, torch.zeros_like(x)), torch.tensor([55 / 6, 451 / 6]))
    assert expand(mean_square(x, x), x).shape == (2, 1, 1)


def test_json_and_back() -> None:
    start = OptimalStart(3, 1, (0.5, 0.25))
    assert OptimalStart.from_json(json.loads(json.dumps(start.to_json()))) == start


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "3"}, "seed must be an integer, but is '3'"),
        ({"sample": 2}, "sample must be one of the 2 candidates, but is 2"),
        ({"sample": True}, "sample must be an integer"),
        ({"errors": None}, "errors must be a list"),
    ],
)
def test_damaged_json_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OptimalStart.from_json({**OptimalStart(3, 1, (0.5, 0.25)).to_json(), **change})


def test_bad_requests_are_refused() -> None:
    clean, y = pairs(6, 1)
    with pytest.raises(InputError, match="candidates must be at least 2, but is 1"):
        choose(clean, y, candidates=1)
    with pytest.raises(InputError, match=r"cond\['y'\] must have a row for each of the 6 pairs, but has 4"):
        choose(clean, y[:4])
    with pytest.raises(InputError, match="at least one reference pair"):
        choose(clean[:0], y[:0])
    with pytest.raises(InputError, match="sample 0 must give finite errors"):
        choose(clean / 0, y)
    with pytest.raises(ValueError, match="one number a pair"):
        choose(clean, y, distance=lambda x, goal: (x - goal).pow(2).mean())
