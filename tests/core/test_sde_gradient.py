"""Gradients: the reversible adjoint and checkpoints against backpropagation, and how much each remembers."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core import Noise, simulate
from degauss.core.observe import Trajectory
from degauss.core.sde import (
    EulerMaruyama,
    ExponentialStep,
    GeometricSDE,
    LangevinSDE,
    LinearNoiseSDE,
    LogStep,
    Milstein,
    NeuralSDE,
    ReversibleHeun,
    adjoint,
    along,
    checkpointed,
    natural,
    process,
    restate,
)

DOUBLE = torch.float64
BATCH, DIM, CHANNELS = 4, 3, 2


def grid(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps + 1, dtype=DOUBLE) ** 1.3


def noise() -> Noise:
    return Noise(5, range(BATCH))


def model(kind: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(DIM, width=6, **options).double()


def start() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, DIM, dtype=DOUBLE, generator=generator).requires_grad_()


def observed() -> Tensor:
    values = torch.randn(BATCH, 7, CHANNELS, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    values[torch.rand(values.shape, generator=torch.Generator().manual_seed(3)) < 0.3] = float("nan")
    return values


def plain(kernel: Any, x: Tensor, times: Tensor, noise: Noise, keep: tuple[int, ...]) -> Tensor:
    """The states at ``keep`` by ``simulate``."""
    states: list[Tensor] = [x]
    simulate(kernel, x, times, noise, observe=(lambda event: states.append(event.x),))
    return torch.stack([states[index] for index in keep])


def gradients(run: Any, kernel: Any, keep: tuple[int, ...], *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """States, and the gradients of a function of them; the same function whatever ``run``."""
    states = run(kernel, inputs[0], grid(13), noise(), keep)
    weights = torch.arange(1, states.numel() + 1, dtype=DOUBLE).reshape(states.shape).cos()
    return states, list(torch.autograd.grad((states * weights).sum(), inputs, materialize_grads=True))


def by_adjoint(kernel: Any, x: Tensor, times: Tensor, noise: Noise, keep: tuple[int, ...]) -> Tensor:
    return adjoint(kernel, x, times, noise, keep=keep)


def by_checkpoints(kernel: Any, x: Tensor, times: Tensor, noise: Noise, keep: tuple[int, ...]) -> Tensor:
    return checkpointed(kernel, x, times, noise, keep=keep)


EQUATIONS = {
    "NeuralSDE": lambda: model(NeuralSDE, calculus="stratonovich"),
    "Langevin": lambda: restate(model(LangevinSDE), "stratonovich"),
    "linear noise": lambda: restate(model(LinearNoiseSDE), "stratonovich"),
    "geometric": lambda: restate(model(GeometricSDE), "stratonovich"),
}


@pytest.mark.parametrize("keep", [(-1,), (0, 4, 13), (3, 3)], ids=str)
@pytest.mark.parametrize("name", EQUATIONS)
def test_the_reversible_adjoint_is_backpropagation(name, keep):
    kernel, x = ReversibleHeun(EQUATIONS[name]()), start()
    inputs = (x, *kernel.equation.tensors())
    ours, expected = gradients(by_adjoint, kernel, keep, *inputs), gradients(plain, kernel, keep, *inputs)
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-12, atol=1e-12)
    assert expected[1][0].abs().max() > 0.1
    for mine, theirs in zip(ours[1], expected[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_the_adjoint_reaches_the_values_under_a_control_path():
    values = observed()
    seen = ~values.isnan()
    known, x = values[seen].requires_grad_(), start()
    linear = model(LinearNoiseSDE, channels=CHANNELS)
    times = torch.linspace(0, 1, 7, dtype=DOUBLE)
    found = []
    for run in (by_adjoint, plain):
        path = natural(times, values.detach().masked_scatter(seen, known))
        kernel = ReversibleHeun(restate(along(linear, path), "stratonovich"))
        found.append(gradients(run, kernel, (5, 13), x, known)[1])
    assert found[1][1].abs().max() > 1e-3
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_the_adjoint_of_an_equation_without_parameters():
    equation = process(lambda t, x: x.sin(), lambda t, x: 0.3 * x, "stratonovich")
    x = start()
    ours, expected = (gradients(run, ReversibleHeun(equation), (13,), x)[1][0] for run in (by_adjoint, plain))
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    still = process(lambda t, x: torch.ones_like(x), lambda t, x: torch.ones_like(x), "stratonovich")
    assert torch.equal(gradients(by_adjoint, ReversibleHeun(still), (13,), x)[1][0] != 0, x != 7)


def test_the_adjoint_gives_no_gradients_of_gradients():
    kernel, x = ReversibleHeun(EQUATIONS["NeuralSDE"]()), start()
    (first,) = torch.autograd.grad(adjoint(kernel, x, grid(4), noise()).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_float32_reconstruction_is_close():
    """Rounding is not undone exactly: near, not equal."""
    equation = model(NeuralSDE, calculus="stratonovich").float()
    x = start().detach().float().requires_grad_()
    exact = torch.autograd.grad(simulate(ReversibleHeun(equation), x, grid(50), noise()).sum(), x)[0]
    found = torch.autograd.grad(adjoint(ReversibleHeun(equation), x, grid(50), noise()).sum(), x)[0]
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


KERNELS: dict[str, Any] = {
    "Euler": lambda: EulerMaruyama(model(NeuralSDE)),
    "Milstein": lambda: Milstein(model(GeometricSDE)),
    "exponential": lambda: ExponentialStep(model(LinearNoiseSDE)),
    "log": lambda: LogStep(model(GeometricSDE)),
    "reversible Heun": lambda: ReversibleHeun(model(NeuralSDE, calculus="stratonovich")),
}


@pytest.mark.parametrize("segment", [None, 1, 5, 100])
@pytest.mark.parametrize("name", KERNELS)
def test_checkpoints_change_nothing(name, segment):
    kernel, x = KERNELS[name](), start()
    inputs = (x, *kernel.equation.tensors())

    def run(kernel: Any, x: Tensor, times: Tensor, noise: Noise, keep: tuple[int, ...]) -> Tensor:
        return checkpointed(kernel, x, times, noise, keep=keep, segment=segment)

    ours, expected = gradients(run, kernel, (0, 4, 13), *inputs), gradients(plain, kernel, (0, 4, 13), *inputs)
    assert torch.equal(ours[0], expected[0])
    for mine, theirs in zip(ours[1], expected[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def remembered(run: Any, kernel: Any, steps: int) -> int:
    """Bytes that autograd keeps of a forward run."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        end = run(kernel, start(), grid(steps), noise(), (steps,))
    assert end.requires_grad
    return sum(sizes.values())


def test_what_is_remembered_grows_with_the_steps_for_backpropagation_alone():
    kernel = KERNELS["reversible Heun"]()
    plain_, adjoint_ = ([remembered(run, kernel, steps) for steps in (16, 256)] for run in (plain, by_adjoint))
    assert plain_[1] > 12 * plain_[0]
    assert adjoint_[1] == adjoint_[0]


def peak(run: Any, steps: int) -> int:
    """The most bytes allocated at a time in a forward and a backward run, beyond what there was before."""
    torch.manual_seed(0)
    # Nothing here is known for all times at once but the grid itself, and states are large.
    weight = torch.randn(256, 256, requires_grad=True)
    equation = process(
        lambda t, x: (x @ weight).tanh(), lambda t, x: 0.1 * x, "stratonovich", separable=True, parameters=[weight]
    )
    x = torch.randn(BATCH, 16, 256, requires_grad=True)
    gc.collect()  # when garbage is freed would depend on what ran before, and the peak on that
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        run(ReversibleHeun(equation), x, grid(steps), noise(), (steps,)).sum().backward()
    total = highest = 0
    events: Any = record.profiler
    for event in events.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            highest = max(highest, total)
    return highest


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_memory_of_whole_runs():
    growth = {run.__name__: peak(run, 128) / peak(run, 32) for run in (plain, by_checkpoints, by_adjoint)}
    assert growth["plain"] > 3
    assert growth["by_checkpoints"] < 2.5
    assert growth["by_adjoint"] < 1.1


@pytest.mark.parametrize("run", [adjoint, checkpointed])
def test_indices_outside_the_grid_are_refused(run):
    kernel = KERNELS["reversible Heun"]()
    for keep in ((5,), (-6,), ()):
        with pytest.raises(ValueError, match="indices of a grid of 5 times"):
            run(kernel, start(), grid(4), noise(), keep=keep)
    last = run(kernel, start(), grid(4), noise(), keep=(-1, 4))
    assert torch.equal(last[0], last[1])


def test_the_states_kept_are_those_that_an_observer_sees():
    kernel, seen = KERNELS["Euler"](), Trajectory()
    with torch.no_grad():
        simulate(kernel, start(), grid(9), noise(), observe=(seen,))
        kept = checkpointed(kernel, start(), grid(9), noise(), keep=range(1, 10))
    assert torch.equal(kept, seen.stack())
