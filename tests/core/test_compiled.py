"""Whole runs as graphs: nothing on the host between steps, and the numbers of the plain loop."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from degauss.core.compiled import prepare
from degauss.core.denoiser import NetworkDenoiser, v_prediction
from degauss.core.gaussian import AncestralTwo, Heun, Singlestep, ddim, deis, dpm, dpmpp, plms, unipc
from degauss.core.gaussian.dc import dc
from degauss.core.gaussian.momentum import dpmpp_hb, ghvb, ghvb_variable, hb
from degauss.core.gaussian.table import table_solver
from degauss.core.grid import uniform_time
from degauss.core.inversion.two_state import bdia_table, belm_table
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import (
    EDM,
    VE,
    Cosine,
    DiscreteVP,
    LinearVP,
    RectifiedFlow,
    Schedule,
    Shifted,
    SubVP,
    ZeroTerminalSNR,
    linear_betas,
)

SCHEDULE = Cosine()
STEPS = 6
GRID = uniform_time(SCHEDULE, STEPS, start=0.97, end=0.02)
DETERMINISTIC: dict[str, Solver] = {
    "ddim": ddim(),
    "2M": dpmpp(2),
    "3M": dpmpp(3),
    "dpm": dpm(2),
    "unipc-2": unipc(2),
    "unipc-3": unipc(3),
    "deis": deis(3),
    "plms": plms(4),
    "hb": hb(),
    "2M hb": dpmpp_hb(),
    "ghvb": ghvb(4),
    "ghvb variable": ghvb_variable(4),
    "dc": dc((1.0, 1.0, *[0.9] * (STEPS - 2)), 3),
    "bdia": table_solver(bdia_table, gamma=1.0),
    "belm": table_solver(belm_table),
}
STOCHASTIC: dict[str, Solver] = {
    "ancestral": ddim(eta=1.0),
    "SDE 2M": dpmpp(2, eta=1.0),
    "SDE dpm": dpm(2, eta=1.0),
}
SINGLE_STEP: dict[str, Solver] = {
    "heun": Heun,
    "churn": partial(Heun, churn=2.0),
    "singlestep": partial(Singlestep, order=3),
    "ancestral 2": AncestralTwo,
}
TABLES = DETERMINISTIC | STOCHASTIC
ALL = TABLES | SINGLE_STEP
COMPILED = {name: ALL[name] for name in ("ddim", "2M", "unipc-3", "deis", "heun", "SDE 2M")}


def of(solvers: dict[str, Solver]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("solver", solvers.values(), ids=solvers)


class Network(nn.Module):
    """Two layers and a time embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.outward = nn.Linear(3, 16), nn.Linear(16, 3)
        self.time = nn.Linear(2, 16)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        embedded = self.time(torch.stack([torch.sin(5 * t), torch.cos(5 * t)], dim=-1))
        return self.outward(nn.functional.silu(self.inward(x) + embedded))


def model(device: str = "cpu") -> NetworkDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return v_prediction(Network().to(device), SCHEDULE)


def weights(denoiser: NetworkDenoiser) -> Network:
    assert isinstance(denoiser.network, Network)
    return denoiser.network


def start(batch: int = 4, seed: int = 1, device: str = "cpu") -> Tensor:
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(seed)).to(device)


EXAMPLE = Noise(0, range(4))
OTHER = Noise(7, [5, 2, 3, 11])


# Nothing on the host, as the profiler sees it

WAITS = {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal"}
FROM_HOST = {"aten::scalar_tensor", "aten::tensor", "aten::lift", "aten::lift_fresh", "aten::detach_", "aten::arange",
             "aten::linspace", "aten::full", "aten::from_file"}  # fmt: skip


def operations(run: Callable[[], object]) -> set[str]:
    run()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        run()
    return {event.key for event in profiler.key_averages()}


def test_the_profiler_sees_what_it_should() -> None:
    x = torch.zeros(3)
    assert operations(x[0].item) & WAITS
    assert operations(lambda: bool(x.any())) & WAITS
    assert operations(lambda: torch.tensor(2.0) * x) & FROM_HOST
    assert operations(lambda: torch.as_tensor(2.0) * x) & FROM_HOST
    assert not operations(lambda: 2.0 * x + torch.zeros_like(x)) & (WAITS | FROM_HOST)


@of(ALL)
def test_a_step_neither_waits_nor_makes_tensors_from_numbers(solver: Solver) -> None:
    kernel, x = solver(model(), SCHEDULE), start()
    first = kernel.init(x, GRID)

    def steps() -> None:
        carry, state = first, x
        for i in range(STEPS):
            carry, state = kernel.step(carry, state, i, EXAMPLE)

    seen = operations(steps)
    assert "aten::addmm" in seen
    # On a CPU the words of the random generator come from numpy: no copy, but a tensor made on the host.
    words = {"aten::lift_fresh"} if prepare(kernel, x, GRID, EXAMPLE).asked else set()
    assert not seen & (WAITS | FROM_HOST - words)


@of(TABLES)
def test_a_second_run_makes_no_table_and_no_times(solver: Solver) -> None:
    assert not operations(lambda: simulate(solver(model(), SCHEDULE), start(), GRID, EXAMPLE)) & (
        WAITS | {"aten::linspace", "aten::sin_"}
    )


@pytest.mark.parametrize(
    "schedule",
    [SCHEDULE, LinearVP(), SubVP(), DiscreteVP.from_betas(linear_betas(50)), VE(), EDM(), RectifiedFlow(),
     Shifted(SCHEDULE, 2.0), ZeroTerminalSNR(SCHEDULE)],
    ids=lambda schedule: type(schedule).__name__,
)  # fmt: skip
def test_a_schedule_waits_for_nothing(schedule: Schedule) -> None:
    t = torch.tensor(0.3, dtype=torch.float64)
    assert not operations(lambda: (schedule(t), schedule.log_snr(t))) & (WAITS | FROM_HOST)


# The same numbers


@of(ALL)
def test_a_prepared_and_a_traced_run_are_the_run_to_the_bit(solver: Solver) -> None:
    kernel = solver(model(), SCHEDULE)
    run = prepare(kernel, start(), GRID, EXAMPLE)
    traced = run.traced()
    for x, noise in ((start(), EXAMPLE), (start(seed=2), OTHER), (start(), EXAMPLE)):
        eager = simulate(kernel, x, GRID, noise)
        assert torch.equal(run(x, noise), eager)
        assert torch.equal(traced(x, noise), eager)


@of(COMPILED)
def test_a_run_is_one_graph(solver: Solver) -> None:
    """``fullgraph`` raises where it is not; the backend leaves the operations as they are."""
    kernel = solver(model(), SCHEDULE)
    compiled = prepare(kernel, start(), GRID, EXAMPLE).compiled("aot_eager")
    for x, noise in ((start(), EXAMPLE), (start(seed=2), OTHER)):
        torch.testing.assert_close(compiled(x, noise), simulate(kernel, x, GRID, noise), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_runs_do_not_share_a_limit_of_compilations() -> None:
    """PyTorch gives up on a function compiled anew for the ninth time; every run is a function of its own."""
    for steps in range(1, 11):
        grid = uniform_time(SCHEDULE, steps, start=0.9)
        kernel = ddim()(model(), SCHEDULE)
        compiled = prepare(kernel, start(), grid, EXAMPLE).compiled("eager")
        torch.testing.assert_close(compiled(start(), EXAMPLE), simulate(kernel, start(), grid, EXAMPLE))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, at its own compiler's import
@of(COMPILED)
def test_a_compiled_run_is_the_run(solver: Solver) -> None:
    kernel = solver(model(), SCHEDULE)
    compiled = prepare(kernel, start(), GRID, EXAMPLE).compiled()
    for x, noise in ((start(), EXAMPLE), (start(seed=2), OTHER)):
        torch.testing.assert_close(compiled(x, noise), simulate(kernel, x, GRID, noise), rtol=1e-6, atol=1e-6)


# What is computed ahead, and what is not


def test_a_trace_asks_the_schedule_nothing() -> None:
    traced = prepare(dpmpp(2)(model(), SCHEDULE), start(), GRID, EXAMPLE).traced()
    seen = operations(lambda: traced(start(), EXAMPLE))
    assert "aten::sin" in operations(lambda: simulate(dpmpp(2)(model(), SCHEDULE), start(), GRID, EXAMPLE))
    assert not seen & (WAITS | FROM_HOST | {"aten::sin", "aten::cos", "aten::sqrt"})


def test_weights_and_conditioning_are_read_at_every_run() -> None:
    denoiser, cond = model(), torch.zeros(3)
    kernel = ddim()(lambda x, t, /, **_: Point(denoiser(x, t).mean + cond), SCHEDULE)
    traced = prepare(kernel, start(), GRID, EXAMPLE).traced()
    before = traced(start(), EXAMPLE)
    for change in (lambda: cond.add_(1), lambda: weights(denoiser).outward.weight.data.mul_(2)):
        change()
        after = traced(start(), EXAMPLE)
        assert not torch.allclose(after, before, atol=1e-2)
        assert torch.equal(after, simulate(kernel, start(), GRID, EXAMPLE))
        before = after


def test_a_number_made_of_the_time_may_be_updated_in_place() -> None:
    def denoiser(x: Tensor, t: Tensor, /, **_: Any) -> Point:
        level = t.clone()
        level.view(1).mul_(2.0).add_(1)
        return Point(x * level.to(x.dtype))

    kernel = ddim()(denoiser, SCHEDULE)
    traced = prepare(kernel, start(), GRID, EXAMPLE).traced()
    for _ in range(3):
        assert torch.equal(traced(start(), EXAMPLE), simulate(kernel, start(), GRID, EXAMPLE))


def test_a_denoiser_that_takes_gradients_is_traced() -> None:
    denoiser = model()

    def guided(x: Tensor, t: Tensor, /, **_: Any) -> Point:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            mean = denoiser(x, t).mean
            (slope,) = torch.autograd.grad((mean - 1).square().sum(), x)
        return Point(mean.detach() - 0.1 * slope)

    kernel = dpmpp(2)(guided, SCHEDULE)
    traced = prepare(kernel, start(), GRID, EXAMPLE).traced()
    with torch.no_grad():
        assert torch.equal(traced(start(seed=2), EXAMPLE), simulate(kernel, start(seed=2), GRID, EXAMPLE))


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_gradients_flow(backend: str | None) -> None:
    denoiser = model()
    kernel = dpmpp(2, eta=1.0)(denoiser, SCHEDULE)
    with torch.inference_mode():  # a run prepared where nothing is differentiated can be
        run = prepare(kernel, start(), GRID, EXAMPLE).traced()
    run = run if backend is None else run.compiled(backend)
    x = start(seed=2).requires_grad_(True)
    wanted = [x, *weights(denoiser).parameters()]
    ours = torch.autograd.grad(run(x, OTHER).square().sum(), wanted)
    plain = torch.autograd.grad(simulate(kernel, x, GRID, OTHER).square().sum(), wanted)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)
        assert bool(a.any())


def test_a_sample_does_not_depend_on_its_batch() -> None:
    kernel = dpmpp(2, eta=1.0)(model(), SCHEDULE)
    whole = prepare(kernel, start(), GRID, EXAMPLE).traced()
    pair = prepare(kernel, start(2), GRID, EXAMPLE.take([0, 1])).traced()
    torch.testing.assert_close(pair(start()[2:], OTHER.take([2, 3])), whole(start(), OTHER)[2:])


# What is refused


def test_another_shape_is_refused() -> None:
    run = prepare(ddim()(model(), SCHEDULE), start(), GRID, EXAMPLE)
    with pytest.raises(ValueError, match=r"prepared for float32 \(4, 3\) on cpu, got float64 \(4, 3\) on cpu"):
        run(start().double(), EXAMPLE)
    with pytest.raises(ValueError, match=r"got float32 \(3, 3\)"):
        run(start(3), EXAMPLE.take([0, 1, 2]))


def test_a_random_denoiser_cannot_be_traced() -> None:
    run = prepare(ddim()(lambda x, t, /, **_: Point(x + torch.rand_like(x)), SCHEDULE), start(), GRID, EXAMPLE)
    with pytest.raises(ValueError, match="random"):
        run.traced()


def test_a_number_written_into_the_trace_is_noticed() -> None:
    def hidden(x: Tensor, t: Tensor, /, **_: Any) -> Point:
        calls.append(x)
        return Point(x + len(calls))

    calls: list[Tensor] = []
    run = prepare(ddim()(hidden, SCHEDULE), start(), GRID, EXAMPLE)
    with pytest.raises(ValueError, match="another result"):
        run.traced()


def test_a_denoiser_that_looks_at_its_numbers_cannot_be_traced() -> None:
    run = prepare(ddim()(lambda x, t, /, **_: Point(x if x.sum() > 0 else -x), SCHEDULE), start(), GRID, EXAMPLE)
    with pytest.raises(RuntimeError):
        run.traced()


def test_a_kernel_that_wants_the_seed_is_refused() -> None:
    class Reseeding(NetworkAlone):
        def step(self, carry: Any, x: Tensor, i: int, noise: Noise, /) -> tuple[Any, Tensor]:
            return carry, x + Noise(noise.seed + i, noise.samples).normal(x)

    with pytest.raises(ValueError, match="asks its noise for 'seed'"):
        prepare(Reseeding(lambda x, t: x), start(), GRID, EXAMPLE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_run_on_the_host_cannot_be_captured() -> None:
    with pytest.raises(ValueError, match="only a run on a CUDA device"):
        prepare(ddim()(model(), SCHEDULE), start(), GRID, EXAMPLE).captured()


# On a GPU

HOST_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "Memcpy DtoH", "Pageable")


@contextmanager
def no_synchronisation() -> Generator[None]:
    """PyTorch raises at every operation of its own that would wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def waits(run: Callable[[], object]) -> list[str]:
    """What made the host wait while ``run`` ran, and what was copied between host and device."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
        with record_function("the run"), no_synchronisation():
            run()
        torch.cuda.synchronize()
    events: Any = profiler.events()
    # The profiler itself synchronises at its end, and so do we: only what falls inside the run counts on the host.
    whole = next(event.time_range for event in events if event.name == "the run")
    return [
        event.name
        for event in events
        if any(word in event.name for word in HOST_WAITS)
        and ("Memcpy" in event.name or whole.start <= event.time_range.start <= whole.end)
    ]


@pytest.mark.gpu
def test_the_profiler_sees_the_host_wait() -> None:
    x = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"):
        waits(lambda: x.sum().item())


@pytest.mark.gpu
@of(TABLES)
def test_a_run_on_a_gpu_never_waits(solver: Solver) -> None:
    kernel, x = solver(model("cuda"), SCHEDULE), start(device="cuda")
    assert not waits(lambda: simulate(kernel, x, GRID, EXAMPLE))


@pytest.mark.gpu
@of(ALL)
def test_a_captured_run_never_waits_and_is_the_run_to_the_bit(solver: Solver) -> None:
    kernel, x = solver(model("cuda"), SCHEDULE), start(device="cuda")
    run = prepare(kernel, x, GRID, EXAMPLE)
    with torch.no_grad():
        for captured in (run.captured(), run.traced().captured()):
            assert not waits(lambda captured=captured: captured(x, EXAMPLE))
            first = captured(x, EXAMPLE)
            kept = first.clone()
            for y, noise in ((start(seed=2, device="cuda"), OTHER), (x, EXAMPLE)):
                assert torch.equal(captured(y, noise), simulate(kernel, y, GRID, noise))
            assert torch.equal(first, kept)  # a later replay leaves earlier results alone


@pytest.mark.gpu
def test_a_captured_run_sees_new_weights_and_refuses_gradients() -> None:
    denoiser, x = model("cuda"), start(device="cuda")
    kernel = unipc(3)(denoiser, SCHEDULE)
    captured = prepare(kernel, x, GRID, EXAMPLE).captured()
    weights(denoiser).outward.weight.data.mul_(2)
    with torch.inference_mode():
        assert torch.equal(captured(x, EXAMPLE), simulate(kernel, x, GRID, EXAMPLE))
    with pytest.raises(ValueError, match="cannot be differentiated"):
        captured(x.clone().requires_grad_(True), EXAMPLE)


@pytest.mark.gpu
@pytest.mark.slow
@of(COMPILED)
def test_a_compiled_run_can_be_captured(solver: Solver) -> None:
    kernel, x = solver(model("cuda"), SCHEDULE), start(device="cuda")
    both = prepare(kernel, x, GRID, EXAMPLE).compiled().captured()
    with torch.no_grad():
        for noise in (EXAMPLE, OTHER):
            torch.testing.assert_close(both(x, noise), simulate(kernel, x, GRID, noise), rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class NetworkAlone:
    """No solver: the network, once a step, at its time."""

    network: Callable[[Tensor, Tensor], Tensor]

    def init(self, x: Tensor, grid: Tensor, /) -> tuple[Tensor, ...]:
        return grid.to(x.device, x.dtype).unbind()

    def step(self, carry: tuple[Tensor, ...], x: Tensor, i: int, noise: Noise, /) -> tuple[tuple[Tensor, ...], Tensor]:
        return carry, self.network(x, carry[i])


@pytest.mark.gpu
@of({name: DETERMINISTIC[name] for name in ("ddim", "2M", "unipc-3", "deis")})
def test_a_step_costs_less_than_ten_microseconds_beside_the_network(solver: Solver) -> None:
    steps = 50
    grid = uniform_time(SCHEDULE, steps, start=0.97, end=0.02)
    denoiser, x = model("cuda"), start(device="cuda")
    kernels: tuple[Any, ...] = (solver(denoiser, SCHEDULE), NetworkAlone(denoiser.network))
    ours, alone = (microseconds(prepare(kernel, x, grid, EXAMPLE).traced().captured(), x) for kernel in kernels)
    assert (ours - alone) / steps < 10


def microseconds(run: Callable[[Tensor, Noise], Tensor], x: Tensor) -> float:
    """The fastest of some runs, by the device's clock."""
    times: list[float] = []
    for _ in range(20):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run(x, EXAMPLE)
        end.record()
        torch.cuda.synchronize()
        times.append(1e3 * begin.elapsed_time(end))
    return min(times)
