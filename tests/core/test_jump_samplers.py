"""Samplers of jump processes: their laws against enumeration, and what each promises beside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from degauss.core import Noise, simulate
from degauss.core.jump import (
    Absorbing,
    Conditioned,
    Cosine,
    LogLinear,
    Solver,
    Uniform,
    ancestral,
    capped,
    certainty,
    confident,
    entropy_bounded,
    first_hitting,
    margin,
    remasking,
    rescaled,
    sample_tokens,
    skipping,
    tau_leaping,
    token_probability,
)
from degauss.core.jump.ancestral import Ancestral
from degauss.core.jump.first_hitting import FirstHitting
from degauss.core.jump.oracle import (
    Tabular,
    ancestral_steps,
    leaping_steps,
    number_of,
    sampler_law,
    sequences,
)
from degauss.core.jump.process import StepLaw
from degauss.core.jump.remasking import Remask, odds_of, remasking_step
from degauss.core.jump.skipping import Skipping
from degauss.core.observe import Trajectory
from degauss.core.posterior import Categorical

DOUBLE = torch.float64
V, L = 3, 3
Process = Absorbing | Uniform


def table(length: int = L) -> Tabular:
    u = Noise(5, (0,)).uniform(torch.empty(1, *[V] * length, dtype=DOUBLE))[0]
    return Tabular(u**3 + 0.01)


def even(steps: int, end: float = 0.0) -> Tensor:
    return torch.linspace(1, end, steps + 1, dtype=DOUBLE)


def started(process: Process) -> Tensor:
    """The law at t = 1 over all states."""
    count = process.symbols**L
    law = torch.zeros(count, dtype=DOUBLE)
    law[-1] = 1
    return law if isinstance(process, Absorbing) else torch.full((count,), 1 / count, dtype=DOUBLE)


def embedded(probabilities: Tensor, symbols: int) -> Tensor:
    """A law over clean sequences as one over states."""
    law = torch.zeros(symbols**L, dtype=DOUBLE)
    law[number_of(sequences(V, L), symbols)] = probabilities
    return law


def distance(a: Tensor, b: Tensor) -> float:
    """Total variation."""
    return 0.5 * float((a - b).abs().sum())


def remasking_steps(denoiser: Any, process: Absorbing, grid: Tensor, remask: Remask) -> StepLaw:
    odds = dict(zip(grid.tolist()[:-1], odds_of(process.rates, grid, remask), strict=True))

    def step(x: Tensor, t: float, s: float) -> Tensor:
        free = torch.ones(x.shape, dtype=torch.bool)
        return remasking_step(denoiser(x, torch.tensor(t, dtype=DOUBLE)), x, free, odds[t], process.mask)

    return step


ABSORBING: dict[str, Solver[Absorbing]] = {
    "ancestral": ancestral(),
    "skipping": skipping(),
    "tau-leaping": tau_leaping(),
    "first-hitting": first_hitting(),
    "confident": confident(),
    "margin": confident(margin, temperature=1.0),
    "drawn": confident(token_probability, temperature=4.0),
    "certainty": confident(certainty),
    "entropy-bounded": entropy_bounded(0.5),
    "capped": remasking(capped(0.2)),
    "rescaled": remasking(rescaled(0.5)),
}
UNIFORM: dict[str, Solver[Uniform]] = {"ancestral": ancestral(), "tau-leaping": tau_leaping()}
EVERY: list[Any] = [
    *[pytest.param(Absorbing(V), solver, id=f"absorbing-{name}") for name, solver in ABSORBING.items()],
    *[pytest.param(Uniform(V), solver, id=f"uniform-{name}") for name, solver in UNIFORM.items()],
]
every_solver = pytest.mark.parametrize(("process", "solver"), EVERY)


METHODS = ["ancestral", "skipping", "tau-leaping", "capped", "rescaled", "uniform", "leaping"]

# Laws


@pytest.mark.parametrize("rates", [LogLinear(), Cosine()], ids=repr)
@pytest.mark.parametrize("method", ["ancestral", "skipping", "tau-leaping", "capped", "rescaled", "uniform", "leaping"])
def test_kernels_have_the_law_of_their_steps(method: str, rates: Any) -> None:
    """In few steps, where a sampler's own error is large: samples against the law pushed through the steps."""
    data, n, grid = table(), 8000, even(4)
    process = Uniform(V, rates) if method in ("uniform", "leaping") else Absorbing(V, rates)
    denoiser: Any = data.denoiser(process)
    solver: Any = ABSORBING.get(method) or UNIFORM[{"uniform": "ancestral", "leaping": "tau-leaping"}[method]]
    steps: StepLaw = {
        "tau-leaping": lambda: leaping_steps(denoiser, process),
        "leaping": lambda: leaping_steps(denoiser, process),
        "capped": lambda: remasking_steps(denoiser, process, grid, capped(0.2)),  # type: ignore[arg-type]
        "rescaled": lambda: remasking_steps(denoiser, process, grid, rescaled(0.5)),  # type: ignore[arg-type]
    }.get(method, lambda: ancestral_steps(denoiser, process))()
    law = sampler_law(started(process), steps, process.symbols, grid, L)
    x = sample_tokens(denoiser, process, (n, L), solver=solver, steps=4, seed=1)
    counts = torch.bincount(number_of(x, process.symbols), minlength=len(law))
    assert int(counts[law < 1e-12].sum()) == 0
    assert stats.chisquare(counts[law > 1e-12], n * law[law > 1e-12]).pvalue > 1e-3
    assert distance(law, embedded(data.probabilities, process.symbols)) > 0.03  # there was an error to reproduce


@pytest.mark.parametrize("rates", [LogLinear(), Cosine()], ids=repr)
def test_first_hitting_has_the_law_of_the_data(rates: Any) -> None:
    data, n, process = table(), 20_000, Absorbing(V, rates)
    x = sample_tokens(data.denoiser(process), process, (n, L), solver=first_hitting(), steps=L, seed=2)
    counts = torch.bincount(number_of(x, V), minlength=V**L)
    assert stats.chisquare(counts, n * data.probabilities).pvalue > 1e-3


@pytest.mark.parametrize("rates", [LogLinear(), Cosine()], ids=repr)
@pytest.mark.parametrize("make", [Absorbing, Uniform])
@pytest.mark.parametrize("steps", [ancestral_steps, leaping_steps])
def test_errors_are_of_first_order(make: Any, rates: Any, steps: Any) -> None:
    """With the true denoiser, in total variation to the data: half the step, half the error."""
    process = make(V, rates)
    data = table()
    truth = embedded(data.probabilities, process.symbols)
    step = steps(data.denoiser(process), process)
    errors = [distance(sampler_law(started(process), step, process.symbols, even(n), L), truth) for n in (32, 64, 128)]
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)


def test_remasking_is_of_first_order_where_its_share_falls_with_the_step() -> None:
    """And keeps an error where it does not. With no remasking it is ancestral sampling."""
    data, process = table(), Absorbing(V)
    truth, denoiser = embedded(data.probabilities, V + 1), data.denoiser(process)

    def error(steps: int, remask: Remask) -> float:
        grid = even(steps)
        law = sampler_law(started(process), remasking_steps(denoiser, process, grid, remask), V + 1, grid, L)
        return distance(law, truth)

    assert error(64, capped(1 / 64)) / error(128, capped(1 / 128)) == pytest.approx(2, abs=0.1)
    assert error(128, capped(0.1)) > 0.75 * error(64, capped(0.1))
    plain = sampler_law(started(process), ancestral_steps(denoiser, process), V + 1, even(16), L)
    assert error(16, capped(0.0)) == pytest.approx(distance(plain, truth), rel=1e-10)


def test_remasking_odds_are_the_published_ones() -> None:
    rates, grid = Cosine(), even(8)
    alpha = rates(grid).alpha
    for remask, name in ((capped(0.1), "cap"), (rescaled(0.25), "share")):
        for i, (remasked, stays) in enumerate(odds_of(rates, grid, remask)):
            late, early = float(alpha[i]), float(alpha[i + 1])
            limit = min(1.0, (1 - early) / late) if late else 1.0
            assert remasked == pytest.approx(min(0.1, limit) if name == "cap" else 0.25 * limit, abs=1e-12)
            assert 1 - stays == pytest.approx((early - (1 - remasked) * late) / (1 - late), abs=1e-12)
    assert odds_of(rates, grid, capped(0.1))[-1] == (0.0, 0.0)
    assert odds_of(rates, even(8, end=0.2), rescaled(1.0))[-1] == (0.0, 0.0)


def test_independent_positions_need_one_step() -> None:
    """Nothing is lost by restoring positions together where they do not know of each other."""
    one = torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE)
    data, n = Tabular(torch.einsum("i,j->ij", one, one.flip(0))), 10_000
    process = Absorbing(V)
    for solver in (ancestral(), confident(), entropy_bounded(10.0)):
        x = sample_tokens(data.denoiser(process), process, (n, 2), solver=solver, steps=1)
        counts = torch.bincount(number_of(x, V), minlength=V**2)
        assert stats.chisquare(counts, n * data.probabilities).pvalue > 1e-3


# What every sampler keeps


@every_solver
def test_a_sample_does_not_depend_on_its_batch(process: Any, solver: Any) -> None:
    data, ids = table(4), [5, 0, 17, 3, 4, 11]
    whole = sample_tokens(data.denoiser(process), process, (6, 4), solver=solver, steps=5, samples=ids)
    assert len(whole.unique(dim=0)) > 1
    for rows in ([4, 1], [2], [5, 3, 0]):
        part = sample_tokens(
            data.denoiser(process), process, (len(rows), 4), solver=solver, steps=5, samples=[ids[row] for row in rows]
        )
        assert torch.equal(part, whole[rows])


@every_solver
@pytest.mark.parametrize("end", [0.0, 0.3])
@pytest.mark.parametrize("steps", [4, 9])
def test_only_tokens_come_out(process: Any, solver: Any, end: float, steps: int) -> None:
    """Wherever the grid ends, and where a network would rather answer with the mask."""
    x = sample_tokens(table(4).denoiser(process), process, (40, 4), solver=solver, steps=steps, grid=even(steps, end))
    assert int(x.min()) >= 0
    assert int(x.max()) < V


@every_solver
def test_a_run_goes_on_from_its_checkpoint(process: Any, solver: Any) -> None:
    data, noise, grid = table(4), Noise(7, range(5)), even(6)
    kernel = solver(data.denoiser(process), process)
    start = process.start(torch.empty(5, 4), noise)
    whole = simulate(kernel, start, grid, noise)
    carry, x = kernel.init(start, grid), start
    for i in range(3):
        carry, x = kernel.step(carry, x, i, noise)
    fresh = Noise(7, range(5))
    for i in range(3, 6):
        carry, x = kernel.step(carry, x, i, fresh)
    assert torch.equal(x, whole)


@every_solver
def test_numbers_that_are_none_are_found(process: Any, solver: Any) -> None:
    def broken(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        logits = torch.zeros(*x.shape, V)
        logits[0, 1] = float("nan")
        return Categorical(logits)

    with pytest.raises(FloatingPointError, match="got no token"):
        sample_tokens(broken, process, (3, 4), solver=solver, steps=4)


@every_solver
def test_grids_must_fall(process: Any, solver: Any) -> None:
    with pytest.raises(ValueError, match="must fall"):
        sample_tokens(table(4).denoiser(process), process, (2, 4), solver=solver, steps=4, grid=even(4).flip(0))


# Ancestral, skipping, first-hitting: one path


def conv(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
    """Logits that depend on the neighbours and the time, with no operation that mixes rows."""
    score = torch.stack([(x == v).double() for v in range(V)], -1)
    spread = score.roll(1, 1) + 0.5 * score.roll(-1, 1) - score.roll(2, 1)
    return Categorical(spread * torch.cos(2 * t).reshape(-1, 1, 1))


class Counting:
    """A denoiser that counts the rows it is asked about, call by call."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser
        self.rows: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        self.rows.append(len(x))
        return self.denoiser(x, t, **cond)


@pytest.mark.parametrize("rates", [LogLinear(), Cosine()], ids=repr)
@pytest.mark.parametrize("steps", [3, 40])
def test_skipping_is_ancestral_bit_for_bit(rates: Any, steps: int) -> None:
    """For a denoiser with a time too; asked once for each row and step in which something changes."""
    process, path, counting = Absorbing(V, rates), Trajectory(), Counting(conv)
    whole = sample_tokens(conv, process, (16, 30), solver=ancestral(), steps=steps, observe=[path])
    some = sample_tokens(counting, process, (16, 30), solver=skipping(), steps=steps)
    assert torch.equal(some, whole)
    states = torch.cat([torch.full((1, 16, 30), V), path.stack()])
    changes = (states.diff(dim=0) != 0).any(-1).sum(0)
    assert sum(counting.rows) == int(changes.sum())
    assert len(counting.rows) == int(changes.max())


@pytest.mark.parametrize(("length", "steps"), [(50, 128), (20, 20)])
def test_skipping_evaluations_match_the_formula(length: int, steps: int) -> None:
    n = 1000

    def constant(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        return Categorical(torch.zeros(1, 1, V).expand(*x.shape, V))

    counting = Counting(constant)
    sample_tokens(counting, Absorbing(V), (n, length), solver=skipping(), steps=steps)
    expected = steps * (1 - (1 - 1 / steps) ** length)
    # Occupied cells: the variance of their number is below its mean times the share of empty ones.
    error = (expected * (1 - expected / steps) / n) ** 0.5
    assert abs(sum(counting.rows) / n - expected) < 4.5 * error
    assert len(counting.rows) <= min(length, steps)


def test_conditioning_follows_its_rows() -> None:
    cond = {"bias": torch.arange(8.0), "scale": torch.tensor(2.0), "name": "x"}
    process = Absorbing(V)

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        assert cond["name"] == "x"
        assert len(cond["bias"]) == len(x)
        weights = torch.zeros(*x.shape, V)
        weights[..., 0] = (cond["bias"] * cond["scale"])[:, None]
        return Categorical(weights - 4)

    for solver in (skipping(), entropy_bounded(0.1)):
        x = sample_tokens(denoiser, process, (8, 20), solver=solver, steps=25, cond=cond)
        alone = sample_tokens(
            denoiser, process, (1, 20), solver=solver, steps=25, samples=[6], cond={**cond, "bias": torch.tensor([6.0])}
        )
        assert torch.equal(x[6:7], alone)
    assert torch.equal(
        sample_tokens(denoiser, process, (8, 20), solver=ancestral(), steps=25, cond=cond),
        sample_tokens(denoiser, process, (8, 20), solver=skipping(), steps=25, cond=cond),
    )
    taken = Conditioned(denoiser, cond).take(torch.tensor([3, 1])).cond
    assert taken["bias"].tolist() == [3.0, 1.0]


@pytest.mark.parametrize("rates", [LogLinear(), Cosine()], ids=repr)
def test_first_hitting_is_the_limit_of_ancestral_sampling(rates: Any) -> None:
    """Sample for sample: a grid so fine that no two positions share a step."""
    process = Absorbing(V, rates)

    def flat(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        return conv(x, torch.zeros(1))

    counting = Counting(flat)
    exact = sample_tokens(counting, process, (12, 8), solver=first_hitting(), steps=8, seed=4)
    fine = sample_tokens(flat, process, (12, 8), solver=skipping(), steps=5000, seed=4)
    assert torch.equal(exact, fine)
    assert counting.rows == [12] * 8


def test_the_order_is_the_same_for_any_number_of_steps() -> None:
    process = Absorbing(V)
    coarse, fine = Trajectory(), Trajectory()
    sample_tokens(conv, process, (6, 20), solver=ancestral(), steps=8, observe=[coarse])
    sample_tokens(conv, process, (6, 20), solver=ancestral(), steps=64, observe=[fine])
    assert torch.equal(coarse.stack() == V, fine.stack()[7::8] == V)


def test_first_hitting_tells_the_time_of_each_event() -> None:
    """In order, and with the law of jump times: the largest of L uniform levels first."""
    process, seen = Absorbing(V, Cosine()), []

    def watching(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        seen.append(t)
        return conv(x, t)

    sample_tokens(watching, process, (500, 5), solver=first_hitting(), steps=5)
    times = torch.stack(seen)
    assert times.shape == (5, 500)
    assert bool((times.diff(dim=0) < 0).all())
    for i in range(5):
        level = process.rates(times[i]).gone.numpy()
        assert stats.kstest(level, stats.beta(5 - i, i + 1).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("solver", "steps"), [(first_hitting(), 9), (skipping(), 4000)])
def test_rows_with_fewer_masks_are_asked_less(solver: Any, steps: int) -> None:
    counting = Counting(conv)
    template = torch.full((3, 6), -1)
    template[0, :4] = 1
    template[1, :1] = 2
    template[2, :] = 0
    x = sample_tokens(counting, Absorbing(V), (3, 6), solver=solver, steps=steps, template=template)
    assert counting.rows == [2, 2, 1, 1, 1]
    assert torch.equal(x[template >= 0], template[template >= 0])
    alone = sample_tokens(conv, Absorbing(V), (1, 6), solver=solver, steps=steps, template=template[1])
    assert not torch.equal(x[1:2], alone)  # another sample id
    alone = sample_tokens(conv, Absorbing(V), (1, 6), solver=solver, steps=steps, template=template[1], samples=[1])
    assert torch.equal(x[1:2], alone)


def test_first_hitting_takes_a_step_for_each_mask() -> None:
    template = torch.tensor([0, -1, -1, -1, -1, -1])
    with pytest.raises(ValueError, match="a step for each mask: 5, got 4"):
        sample_tokens(conv, Absorbing(V), (2, 6), solver=first_hitting(), steps=4, template=template)


def test_nothing_to_fill_asks_nothing() -> None:
    def never(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        raise AssertionError("asked")

    template = torch.tensor([0, 1, 2, 1])
    for solver in (skipping(), first_hitting(), entropy_bounded(0.1)):
        x = sample_tokens(never, Absorbing(V), (2, 4), solver=solver, steps=3, template=template)
        assert torch.equal(x, template.expand(2, 4))


@pytest.mark.parametrize("kernel", [Ancestral, Skipping, FirstHitting])
def test_kernels_serve_two_runs_at_once(kernel: Any) -> None:
    process = Absorbing(V)
    shared = kernel(conv, process)
    noises = [Noise(1, range(3)), Noise(2, range(3))]
    grid, states = even(8), [torch.full((3, 7), V)] * 2
    carries = [shared.init(x, grid) for x in states]
    for i in range(8):
        for run in range(2):
            carries[run], states[run] = shared.step(carries[run], states[run], i, noises[run])
    for run in range(2):
        assert torch.equal(states[run], simulate(shared, torch.full((3, 7), V), grid, noises[run]))


def test_seeds_differ() -> None:
    one, two = (sample_tokens(conv, Absorbing(V), (4, 30), solver=ancestral(), steps=6, seed=s) for s in (0, 1))
    assert not set(map(tuple, one.tolist())) & set(map(tuple, two.tolist()))
