"""The core's claims: two of them reduced, a must-fail control against its source, and shared helpers."""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core import DiscreteVP, Noise, simulate
from degauss.core.claims import Result, find_claims, run_claim, source_tree
from degauss.core.gaussian import table_solver
from degauss.core.oracle import GaussianOracle
from degauss.core.schedule import linear_betas

DOUBLE = torch.float64


def loaded(name: str) -> ModuleType:
    """A claim of the core as a module."""
    (claim,) = find_claims(source_tree(), [name])
    claim.load()
    return sys.modules[f"degauss_claims.core.{name}"]


@pytest.mark.parametrize("name", ["zero_terminal_snr", "keyed_noise"])
def test_claim_holds_for_one_seed(name: str) -> None:
    result: Result = loaded(name).run([0])
    assert result.verdict == "holds"
    assert all(len(values) == 1 for values in result.figures.values())


def test_verdicts_follow_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule that loses nothing, or a control that passes, must cost the verdict."""
    claim = loaded("zero_terminal_snr")
    kept = claim.kept

    def broken_fix(schedule: Any, seed: int, start: float = 1.0) -> float:
        return kept(claim.STABLE_DIFFUSION, seed)

    def lucky_control(schedule: Any, seed: int, start: float = 1.0) -> float:
        return kept(schedule, seed)

    for replacement in (broken_fix, lucky_control):
        monkeypatch.setattr(claim, "kept", replacement)
        assert claim.run([0]).verdict == "holds partly"


def test_verdict_needs_every_part_and_every_control() -> None:
    loaded("ddim")
    verdict = importlib.import_module("degauss_claims.core._problem").verdict
    assert verdict([True, True], [True]) == "holds"
    assert verdict([True, False]) == "holds partly"
    assert verdict([True, True], [False]) == "holds partly"
    assert verdict([False, False], [True]) == "does not hold"


def test_the_reference_of_the_solver_claims_has_converged() -> None:
    """At the step length of the claims, and with the order of its method."""
    loaded("ddim")
    problem = importlib.import_module("degauss_claims.core._problem")
    ends: list[Tensor] = [problem.flow(0, 10.0, steps) for steps in (36, 72, 144)]
    coarse, fine = (float((a - b).norm(dim=1).median()) for a, b in pairwise(ends))
    assert fine < 1e-7
    assert math.log2(coarse / fine) == pytest.approx(4.0, abs=0.3)


@pytest.mark.filterwarnings("ignore")
def test_published_3m_is_the_published_update() -> None:
    """The control of the claim on DPM-Solver++ takes the steps that diffusers takes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
    betas = linear_betas(1000)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        trained_betas=betas.numpy(),
        solver_order=3,
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(20)
    schedule = DiscreteVP.from_betas(betas)
    oracle = GaussianOracle(schedule, mean=1.0, std=0.3)
    noise = Noise(0, range(16))
    x = start = noise.normal(torch.empty(16, 4, dtype=DOUBLE))
    times = (scheduler.timesteps.double() + 1) / 1000
    for step, t in zip(scheduler.timesteps, times, strict=True):
        alpha, sigma = schedule(t)
        x = scheduler.step((x - alpha * oracle(x, t).mean) / sigma, step, x).prev_sample.double()
    last = torch.tensor([float(scheduler.sigmas[-1])], dtype=DOUBLE)
    grid = torch.cat([times, schedule.time(-2 * last.log())])
    solver = table_solver(loaded("dpm_solver_pp").published_3m)
    got = simulate(solver(oracle, schedule), start, grid, noise)
    assert float((got - x).norm() / x.norm()) < 1e-5


SHARED = """
def verdict():
    return "holds"
"""
SHARING = """
from collections.abc import Sequence
from degauss.core.claims import Claim, Result
from ._shared import verdict

CLAIM = Claim(paper="Euler 1734", statement="One is one.", expected="it is")

def run(seeds):
    return Result(verdict(), {"one": [1.0]})
"""
ALONE = SHARING.replace("from ._shared import verdict", "def verdict():\n    return 'holds'")


def write(root: Path, **sources: str) -> Path:
    folder = root / "packages" / "core" / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text)
    return root


def verdicts(root: Path) -> Sequence[str]:
    return [run_claim(claim, [0]).verdict for claim in find_claims(root)]


def test_claims_import_what_they_share(tmp_path: Path) -> None:
    """Each checkout has its own helper, and a changed helper is read again."""
    one = write(tmp_path / "one", sharing=SHARING, _shared=SHARED)
    two = write(tmp_path / "two", sharing=SHARING, _shared=SHARED.replace("holds", "does not hold"))
    assert [verdicts(one), verdicts(two), verdicts(one)] == [["holds"], ["does not hold"], ["holds"]]
    write(one, _shared=SHARED.replace("holds", "holds partly"))
    assert verdicts(one) == ["holds partly"]


def test_a_changed_helper_makes_the_claims_that_use_it_stale(tmp_path: Path) -> None:
    root = write(tmp_path, sharing=SHARING, alone=ALONE, _shared=SHARED)
    alone, sharing = find_claims(root)
    before = {claim.name: run_claim(claim, [0]).source_sha256 for claim in (alone, sharing)}
    write(root, _shared=SHARED + "\n# otherwise\n")
    assert alone.sha256() == before["alone"]
    assert sharing.sha256() != before["sharing"]
