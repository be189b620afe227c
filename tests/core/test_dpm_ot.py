"""DPM-OT: the fitted map against optimal transport known in closed form and against a linear program."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm
from torch import Tensor

from degauss.core import EDM, LinearVP, Noise, sample
from degauss.core.errors import InputError
from degauss.core.gaussian import ddim, dpmpp
from degauss.core.gaussian.dpm_ot import OptimalTransportStart, fit_transport
from degauss.core.gaussian.one_more_step import Started
from degauss.core.grid import uniform_log_snr
from degauss.core.oracle import GaussianOracle

DOUBLE = torch.float64
VP = LinearVP()


def normals(rows: int, *event: int, seed: int = 0) -> Tensor:
    return Noise(seed, range(rows)).normal(torch.empty(rows, *event, dtype=DOUBLE))


def two_clusters(count: int, dim: int = 2) -> Tensor:
    bank = 0.3 * normals(count, dim, seed=8)
    bank[: count // 2, 0] += 2.0
    bank[count // 2 :, 0] -= 1.0
    return bank


def test_in_one_dimension_the_map_is_the_quantile() -> None:
    """The transport of N(0, 1) to n points takes z to the point of its rank, ceil(n Phi(z))."""
    bank = torch.tensor([[-3.0], [5.0], [0.5], [1.0], [-0.2]], dtype=DOUBLE)
    start = fit_transport(bank, steps=300, points=2000)
    z = normals(5000, 1)
    want = bank.flatten().sort().values[torch.as_tensor(norm.cdf(z[:, 0].numpy()) * 5).long()]
    edges = torch.as_tensor(norm.ppf([0.2, 0.4, 0.6, 0.8]))
    clear = (z - edges).abs().min(1).values > 0.05
    assert float(clear.double().mean()) > 0.8
    assert torch.equal(start.transport(z, Noise(0, range(5000)))[clear, 0], want[clear])


@pytest.mark.parametrize(("count", "dim"), [(64, 2), (100, 16)])
def test_cells_have_equal_mass(count: int, dim: int) -> None:
    bank = two_clusters(count, dim)
    start = fit_transport(bank, steps=300)
    masses = start.masses(400 * count, seed=3)
    assert float(masses.sum()) == pytest.approx(1.0)
    assert float((masses * count - 1).abs().max()) < 0.35
    # A mass counted on 400 points a cell has a standard error of 1 / 20.
    assert float((masses * count - 1).pow(2).mean().sqrt()) < 0.12
    unfitted = OptimalTransportStart(bank, torch.zeros(count, dtype=DOUBLE)).masses(400 * count, seed=3)
    assert float((unfitted * count - 1).abs().max()) > 1.0


def test_it_costs_as_little_as_the_best_assignment() -> None:
    """Semi-discrete transport against discrete: n z's assigned to the n latents by linear programming."""
    count = 300
    bank = two_clusters(count)
    start = fit_transport(bank, steps=300)
    costs: list[tuple[float, float]] = []
    for seed in range(4):
        z = normals(count, 2, seed=20 + seed)
        square = torch.cdist(z, bank) ** 2
        rows, columns = linear_sum_assignment(square.numpy())
        map_cost = (start.transport(z, Noise(0, range(count))) - z).pow(2).sum(1).mean()
        costs.append((float(map_cost), float(square[rows, columns].mean())))
    mapped, assigned = (sum(each) / len(costs) for each in zip(*costs, strict=True))
    assert mapped == pytest.approx(assigned, rel=0.1)
    shuffled = float((bank - normals(count, 2, seed=20)).pow(2).sum(1).mean())
    assert shuffled > 2 * assigned


def test_the_map_is_monotone() -> None:
    """The gradient of a convex function: <T(z) - T(z'), z - z'> >= 0 for every pair."""
    start = fit_transport(two_clusters(80), steps=50)
    z = normals(400, 2)
    y = start.transport(z, Noise(0, range(400)))
    assert float(((y[:, None] - y) * (z[:, None] - z)).sum(-1).min()) >= -1e-12


def test_heights_do_not_depend_on_where_the_bank_lies() -> None:
    bank = two_clusters(50)
    here, there = fit_transport(bank, steps=40), fit_transport(bank + 100.0, steps=40)
    z = normals(300, 2)
    assert torch.equal(here.cells(z).first, there.cells(z).first)


def test_neighbours_across_modes_are_left_out() -> None:
    """Interpolation between any two cells leaves the clusters; the angle keeps it inside them."""
    bank = two_clusters(200)
    fitted = fit_transport(bank, steps=200)
    z = normals(20000, 2)
    cells = fitted.cells(z)
    crossing = (bank[cells.first, 0] > 0.5) != (bank[cells.second, 0] > 0.5)
    angles = fitted.angles(cells)
    assert int(crossing.sum()) > 40
    smallest = float(angles[crossing].min())
    assert float(angles[~crossing].max()) < smallest

    def outside(angle: float) -> float:
        """Of the points whose two cells lie in different clusters, those sent far from both."""
        start = OptimalTransportStart(bank, fitted.heights, mix=1.0, angle=angle)
        x = start.transport(z[crossing], Noise(1, range(int(crossing.sum()))))
        return float((torch.cdist(x, bank).min(1).values > 0.3).double().mean())

    assert outside(math.pi) > 0.3
    assert outside(0.999 * smallest) == 0.0


def test_the_angle_is_that_of_the_faces() -> None:
    bank = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0]], dtype=DOUBLE)
    start = OptimalTransportStart(bank, torch.zeros(3, dtype=DOUBLE))
    z = torch.tensor([[3.0, 0.5], [0.1, 0.2]], dtype=DOUBLE)
    cells = start.cells(z)
    assert cells.first.tolist() == [1, 1]
    assert cells.second.tolist() == [0, 0]
    torch.testing.assert_close(start.angles(cells), torch.full((2,), math.pi / 4, dtype=DOUBLE))


def test_interpolation_moves_part_of_the_way_to_the_next_cell() -> None:
    bank = two_clusters(60)
    start = OptimalTransportStart(bank, fit_transport(bank, steps=50).heights, mix=0.4, angle=math.pi)
    z, noise = normals(2000, 2), Noise(1, range(2000))
    cells = start.cells(z)
    moved = start.transport(z, noise) - bank[cells.first]
    share = moved.norm(dim=1) / (bank[cells.second] - bank[cells.first]).norm(dim=1)
    assert 0 < float(share.min()) < float(share.max()) < 0.4
    assert float(share.mean()) == pytest.approx(0.2, abs=4 * 0.4 / math.sqrt(12 * 2000))


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.0), (0.8, 0.6)])
def test_noise_brings_the_bank_to_the_first_level(alpha: float, sigma: float) -> None:
    """x at the grid's level given a latent at the bank's: the transition of the forward process."""
    bank = torch.tensor([[2.0, -1.0], [2.0 + 1e-9, -1.0]], dtype=DOUBLE)
    start = OptimalTransportStart(bank, torch.zeros(2, dtype=DOUBLE), alpha, sigma)
    z = normals(20000, 2)
    x = start(z, 0.4, 0.9, Noise(0, range(20000)))
    keep = 0.4 / alpha
    std = math.sqrt(0.81 - (keep * sigma) ** 2)
    torch.testing.assert_close(x.mean(0), keep * bank[0], rtol=0, atol=4 * std / math.sqrt(20000))
    assert float(x.std(0).mean()) == pytest.approx(std, rel=4 / math.sqrt(80000))
    # The noise that chose the cell is not added again.
    assert abs(float((x * z).mean(0)[0])) < 4 / math.sqrt(20000)
    at_bank = start(z, alpha, sigma, Noise(0, range(20000)))
    torch.testing.assert_close(at_bank, bank[:1].expand_as(z), rtol=1e-6, atol=1e-6)


def test_a_few_steps_from_the_bank_give_the_law_of_the_data() -> None:
    oracle = GaussianOracle(VP, mean=2.0, std=0.5)
    bank = 2.0 + 0.5 * normals(500, 1, seed=9)
    start = fit_transport(bank, steps=200)
    grid = uniform_log_snr(VP, 6, start=0.3, end=1e-3)
    solver = partial(Started, start=start, solver=dpmpp(2))
    x = sample(oracle, VP, (4000, 1), solver=solver, steps=6, grid=grid, dtype=DOUBLE)
    assert float(x.mean()) == pytest.approx(float(bank.mean()), abs=4 * 0.5 / math.sqrt(4000) + 0.03)
    assert float(x.std()) == pytest.approx(float(bank.std()), rel=0.08)


def test_events_keep_their_shape_and_precision() -> None:
    bank = normals(20, 3, 4).float()
    start = fit_transport(bank, steps=5)
    z = normals(6, 3, 4)
    assert start.transport(z, Noise(0, range(6))).shape == (6, 3, 4)
    assert start(z, 0.5, 0.5, Noise(0, range(6))).dtype == DOUBLE
    assert start(z.float(), 0.5, 0.5, Noise(0, range(6))).dtype == torch.float32


def test_fitting_is_a_function_of_its_seed_and_reports() -> None:
    bank = two_clusters(40)
    seen: list[tuple[int, int, float]] = []
    one = fit_transport(bank, steps=60, report=lambda *progress: seen.append(progress))
    assert torch.equal(one.heights, fit_transport(bank, steps=60).heights)
    assert not torch.equal(one.heights, fit_transport(bank, steps=60, seed=1).heights)
    assert [(done, steps) for done, steps, _ in seen] == [(step + 1, 60) for step in range(60)]
    assert seen[-1][2] < 0.5 * seen[0][2]


def test_a_sample_does_not_depend_on_its_batch() -> None:
    start = fit_transport(two_clusters(40), steps=20, mix=0.5, angle=math.pi)
    oracle = GaussianOracle(VP)

    def run(rows: list[int]) -> Tensor:
        solver = partial(Started, start=start, solver=ddim(eta=1.0))
        grid = uniform_log_snr(VP, 4, start=0.5)
        return sample(oracle, VP, (len(rows), 2), solver=solver, steps=4, grid=grid, samples=rows, dtype=DOUBLE)

    torch.testing.assert_close(run([7, 1]), run(list(range(10)))[[7, 1]], rtol=1e-12, atol=1e-12)


def test_gradients_reach_the_bank() -> None:
    bank = two_clusters(10).requires_grad_()
    start = OptimalTransportStart(bank, torch.zeros(10, dtype=DOUBLE), mix=0.5, angle=math.pi)
    z = normals(4, 2)
    cells = start.cells(z)
    start(z, 0.5, 0.9, Noise(0, range(4))).sum().backward()
    assert bank.grad is not None
    touched = set(bank.grad.abs().sum(1).nonzero().flatten().tolist())
    assert touched == {*cells.first.tolist(), *cells.second.tolist()}


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    start = fit_transport(two_clusters(30), alpha=0.9, sigma=0.1, mix=0.5, angle=1.0, steps=5)
    start.save(tmp_path / "start")
    loaded = OptimalTransportStart.load(tmp_path / "start")
    assert torch.equal(loaded.bank, start.bank)
    assert torch.equal(loaded.heights, start.heights)
    assert (loaded.alpha, loaded.sigma, loaded.mix, loaded.angle) == (0.9, 0.1, 0.5, 1.0)
    with pytest.raises(InputError, match="is no model"):
        OptimalTransportStart.load(tmp_path / "elsewhere")


def test_bad_input_is_refused() -> None:
    bank, heights = two_clusters(4), torch.zeros(4)
    with pytest.raises(InputError, match=r"heights \[n\] are needed, but they are \(4, 2\) and \(3,\)"):
        OptimalTransportStart(bank, heights[:3])
    with pytest.raises(InputError, match="must be finite"):
        OptimalTransportStart(bank / 0, heights)
    with pytest.raises(InputError, match="alpha > 0"):
        OptimalTransportStart(bank, heights, alpha=0.0)
    with pytest.raises(InputError, match="mix must be between"):
        OptimalTransportStart(bank, heights, mix=1.5)
    with pytest.raises(InputError, match="angle must be between"):
        OptimalTransportStart(bank, heights, angle=4.0)
    with pytest.raises(InputError, match=r"events \(3,\) were asked of a bank of events \(2,\)"):
        OptimalTransportStart(bank, heights).cells(normals(2, 3))
    with pytest.raises(InputError, match="all are the same"):
        fit_transport(torch.ones(4, 2))
    with pytest.raises(InputError, match="steps is 0"):
        fit_transport(bank, steps=0)
    noisy = OptimalTransportStart(bank, heights, 1.0, 2.0)
    with pytest.raises(InputError, match="sigma/alpha = 2, noisier than the first level of the grid, 1"):
        noisy(normals(2, 2), 1.0, 1.0, Noise(0, range(2)))
    with pytest.raises(InputError, match="noisier"):
        sample(
            GaussianOracle(EDM(1.0)),
            EDM(1.0),
            (2, 2),
            solver=partial(Started, start=noisy, solver=ddim()),
            steps=2,
        )
