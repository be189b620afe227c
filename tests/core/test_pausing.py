"""Runs that are cut and go on: the same bits as if they had not been, for every solver that inverse problems use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.gaussian import ddim, dpmpp, unipc
from degauss.core.grid import uniform_time
from degauss.core.inverse import AxisTV, Identity, Mask, Measurement, REDDiff, ddnm_plus, dds_tv, dps
from degauss.core.kernel import Event, Kernel, simulate
from degauss.core.noise import Noise
from degauss.core.oracle import GaussianOracle
from degauss.core.pausing import pack, simulate_pausing, unpack
from degauss.core.schedule import LinearVP

SCHEDULE = LinearVP()
ORACLE = GaussianOracle(SCHEDULE, 0.5, 0.3)
MEASUREMENT = Measurement(Mask(torch.tensor([1.0, 0.0, 1.0])), torch.tensor([[[1.0, 0.0, 0.3]]]).expand(1, 4, 3), 0.1)
STEPS = 7

KERNELS: dict[str, Callable[[], Kernel[Any]]] = {
    "ddim": lambda: ddim(eta=0.85)(ORACLE, SCHEDULE),
    "multistep": lambda: dpmpp(3)(ORACLE, SCHEDULE),
    "predictor-corrector": lambda: unipc(3)(ORACLE, SCHEDULE),
    "dds-tv": lambda: dds_tv(MEASUREMENT, AxisTV(1))(ORACLE, SCHEDULE),
    "dps": lambda: dps(MEASUREMENT, 0.5)(ORACLE, SCHEDULE),
    "ddnm-plus": lambda: ddnm_plus(MEASUREMENT)(ORACLE, SCHEDULE),
    "reddiff": lambda: REDDiff(ORACLE, SCHEDULE, MEASUREMENT, rate=0.05),
}


class Cut:
    """Ctrl-C after so many steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, event: Event) -> None:
        if event.i + 1 == self.after:
            raise KeyboardInterrupt


def start() -> tuple[Tensor, Tensor, Noise]:
    noise = Noise(3, [5, 2])
    grid = uniform_time(SCHEDULE, STEPS, start=0.99, end=0.01)
    return noise.normal(torch.empty(2, 4, 3)), grid, noise


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("after", [1, 4])
def test_a_run_that_was_cut_goes_on_to_the_same_bits(name: str, after: int, tmp_path: Path) -> None:
    x, grid, noise = start()
    whole = simulate(KERNELS[name](), x, grid, noise)
    folder = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        simulate_pausing(KERNELS[name](), x, grid, noise, folder=folder, observe=(Cut(after),))
    assert folder.is_dir()
    x, grid, noise = start()
    seen: list[int] = []
    again = simulate_pausing(KERNELS[name](), x, grid, noise, folder=folder, observe=(lambda e: seen.append(e.i),))
    assert torch.equal(again, whole)
    assert seen == list(range(after, STEPS))
    assert not folder.exists()


def test_it_is_cut_twice_and_at_its_end(tmp_path: Path) -> None:
    whole = simulate(KERNELS["dds-tv"](), *start())
    folder = tmp_path / "state"
    for after in (2, 5, STEPS):
        with pytest.raises(KeyboardInterrupt):
            simulate_pausing(KERNELS["dds-tv"](), *start(), folder=folder, observe=(Cut(after),))
    assert torch.equal(simulate_pausing(KERNELS["dds-tv"](), *start(), folder=folder), whole)


def test_a_kill_loses_what_came_after_the_last_checkpoint_and_no_more(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(event: Event) -> None:
        if event.i == 4:
            raise Killed

    folder = tmp_path / "state"
    with pytest.raises(Killed):
        simulate_pausing(KERNELS["ddim"](), *start(), folder=folder, every=0.0, observe=(kill,))
    seen: list[int] = []
    again = simulate_pausing(KERNELS["ddim"](), *start(), folder=folder, observe=(lambda e: seen.append(e.i),))
    assert seen == [5, 6]
    assert torch.equal(again, simulate(KERNELS["ddim"](), *start()))


def test_interrupted_before_its_first_step_it_leaves_nothing(tmp_path: Path) -> None:
    def answer(x: Tensor, t: Tensor, /, **cond: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_pausing(ddim()(answer, SCHEDULE), *start(), folder=tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_a_table_of_coefficients_is_not_written(tmp_path: Path) -> None:
    x, grid, noise = start()
    kernel = KERNELS["dds-tv"]()
    initial = kernel.init(x, grid)
    carry, _ = kernel.step(initial, x, 0, noise)
    tree = pack(carry, initial)
    back = unpack(tree, initial, x.device)
    assert type(back) is type(carry)
    assert back.inner.table is initial.inner.table
    assert back.inner.times is initial.inner.times
    assert torch.equal(back.duals.split, carry.duals.split)
    assert "Table" not in repr(tree)


def test_what_another_run_left_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    run = partial(simulate_pausing, folder=folder)
    x, grid, noise = start()
    with pytest.raises(KeyboardInterrupt):
        run(KERNELS["dds-tv"](), x, grid, noise, observe=(Cut(3),))
    with pytest.raises(InputError, match=r"another run \(a state torch.float32 \(2, 4, 3\)"):
        run(ddim()(ORACLE, SCHEDULE), x[:, :2], grid, noise)
    with pytest.raises(InputError, match="left by another run"):
        run(REDDiff(ORACLE, SCHEDULE, Measurement(Identity(), x)), x, grid, noise)
    with pytest.raises(InputError, match="at least 3 steps, but this one has 1"):
        run(KERNELS["dds-tv"](), x, grid[:2], noise)
    (folder / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"state\.json"):
        run(KERNELS["dds-tv"](), x, grid, noise)
