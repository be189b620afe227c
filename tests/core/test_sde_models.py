"""Neural equations: they are what their docstrings say, and runs of them say what went wrong."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from degauss.core import InputError, Noise, simulate
from degauss.core.sde import (
    PUBLISHED,
    SRA,
    SRI,
    Additive,
    EulerMaruyama,
    ExponentialStep,
    General,
    Geometric,
    GeometricSDE,
    LangevinSDE,
    Linear,
    LinearNoiseSDE,
    LogStep,
    Milstein,
    NeuralCDE,
    NeuralODE,
    NeuralSDE,
    Process,
    ReversibleHeun,
    RungeKutta4,
    Stabilisers,
    adjoint,
    along,
    checkpointed,
    hermite,
    natural,
    process,
    restate,
    solve,
)
from degauss.core.sde.layers import Field

DOUBLE = torch.float64
BATCH, DIM, CHANNELS = 6, 3, 2
TIMES = torch.tensor([0.0, 0.3, 0.9], dtype=DOUBLE)
STABLE = (LangevinSDE, LinearNoiseSDE, GeometricSDE)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def grid(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps + 1, dtype=DOUBLE)


def control(batch: int = BATCH) -> Any:
    return natural(torch.linspace(0, 1, 5, dtype=DOUBLE), drawn(batch, 5, CHANNELS, seed=3))


def model(kind: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(DIM, width=8, **options).double()


def by_hand(field: Field, t: Tensor, z: Tensor, x: Tensor | None) -> Tensor:
    """The perceptron of a field, layer by layer."""
    hidden = functional.linear(z, field.state.weight, field.state.bias)
    if field.time is not None and field.clock is not None:
        phi = torch.stack([t.sin(), t.cos()]) if field.clock.periodic else t.reshape(1)
        hidden = hidden + field.time.weight @ phi
    if field.control is not None and x is not None:
        hidden = hidden + x @ field.control.weight.T
    for layer in field.rest:
        hidden = layer(0.909 * hidden * hidden.sigmoid())
    return hidden


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("channels", [0, CHANNELS])
@pytest.mark.parametrize("kind", STABLE)
def test_the_stable_classes_are_the_equations_of_the_paper(kind, channels, depth):
    equation, path, z = model(kind, channels=channels, depth=depth), control(), drawn(BATCH, DIM)
    instants = (along(equation, path) if channels else equation).at(TIMES)
    forms = {LangevinSDE: Additive, LinearNoiseSDE: Linear, GeometricSDE: Geometric}
    assert equation.calculus == "ito"
    for i, (t, instant) in enumerate(zip(TIMES, instants, strict=True)):
        gamma = by_hand(equation.gamma, t, z, path(TIMES)[i])
        sigma = equation.sigma(t.reshape(1))
        assert isinstance(instant, forms[kind])
        torch.testing.assert_close(instant.drift(z), z * gamma if kind is GeometricSDE else gamma)
        expected = sigma if kind is LangevinSDE else sigma * z
        torch.testing.assert_close(instant.diffusion(z), expected)


def test_only_the_langevin_drift_is_without_time_of_its_own():
    z = drawn(BATCH, DIM)
    for kind in STABLE:
        first, _, last = model(kind).at(TIMES)
        assert torch.equal(first.drift(z), last.drift(z)) == (kind is LangevinSDE)
        assert not torch.equal(first.diffusion(z), last.diffusion(z))


@pytest.mark.parametrize("kind", STABLE)
def test_the_published_stabilisers_are_what_they_are_said_to_be(kind):
    equation, z = model(kind, stabilisers=PUBLISHED), drawn(BATCH, DIM)
    with torch.no_grad():
        equation.theta.fill_(0.7)
    assert Stabilisers(clip=True, periodic=True, scale=True) == PUBLISHED
    for t, instant in zip(TIMES, equation.at(TIMES), strict=True):
        gamma = by_hand(equation.gamma, t, z, None)
        sigma = equation.sigma(torch.stack([t.sin(), t.cos()])) * equation.theta.sigmoid()
        drift = (z.tanh() * gamma).tanh() if kind is GeometricSDE else gamma.tanh()
        spread = sigma.tanh() if kind is LangevinSDE else (sigma * z).tanh()
        torch.testing.assert_close(instant.drift(z), drift)
        torch.testing.assert_close(instant.diffusion(z), spread)
        g, slope = instant.diffusion_and_slope(z)
        torch.testing.assert_close(slope, torch.zeros(DIM).double() if kind is LangevinSDE else (1 - g**2) * sigma)


def test_stabilisers_can_be_taken_one_by_one():
    z = drawn(BATCH, DIM)
    clipped, plain = model(LinearNoiseSDE, stabilisers=Stabilisers(clip=True)), model(LinearNoiseSDE)
    assert clipped.theta is None
    torch.testing.assert_close(clipped.at(TIMES)[1].drift(z), plain.at(TIMES)[1].drift(z).tanh())
    scaled = model(LinearNoiseSDE, stabilisers=Stabilisers(scale=True))
    torch.testing.assert_close(scaled.at(TIMES)[1].diffusion(z), 0.5 * plain.at(TIMES)[1].diffusion(z))


@pytest.mark.parametrize("kind", STABLE[1:])
def test_clipped_equations_are_refused_by_the_steps_that_solve_the_paper_s(kind):
    equation = model(kind, stabilisers=PUBLISHED)
    for kernel in (LogStep(equation), ExponentialStep(equation)):
        with pytest.raises(ValueError, match="clipped"):
            simulate(kernel, drawn(2, DIM), grid(2), Noise(0, range(2)))
    solve(EulerMaruyama(equation), drawn(2, DIM), grid(2), Noise(0, range(2)))


def test_the_naive_sde_and_the_ode_are_perceptrons_of_time_and_state():
    path, z = control(), drawn(BATCH, DIM)
    sde, ode = model(NeuralSDE, channels=CHANNELS), model(NeuralODE, depth=2)
    for i, t in enumerate(TIMES):
        instant = along(sde, path).at(TIMES)[i]
        torch.testing.assert_close(instant.drift(z), by_hand(sde.force, t, z, path(TIMES)[i]))
        torch.testing.assert_close(instant.diffusion(z), by_hand(sde.spread, t, z, None))
        assert not instant.separable
        torch.testing.assert_close(ode.at(TIMES)[i].drift(z), by_hand(ode.field, t, z, None))


def test_the_neural_ode_is_torchdiffeqs_and_of_order_four():
    torchdiffeq = pytest.importorskip("torchdiffeq", reason="torchdiffeq is the reference here")
    ode, x = model(NeuralODE), drawn(BATCH, DIM)
    with torch.no_grad():
        for weight in ode.parameters():
            weight.mul_(2.0)

        def field(t: Tensor, z: Tensor) -> Tensor:
            return ode.at(t.reshape(1))[0].drift(z)

        exact = torchdiffeq.odeint(field, x, grid(1), method="dopri8", rtol=1e-12, atol=1e-12)[-1]
        theirs = torchdiffeq.odeint(field, x, grid(64), method="rk4")[-1]
        errors = [
            float((solve(RungeKutta4(ode), x, grid(steps), Noise(0, range(BATCH))) - exact).norm()) for steps in (8, 64)
        ]
    torch.testing.assert_close(solve(RungeKutta4(ode), x, grid(64), Noise(0, range(BATCH))), theirs, rtol=0, atol=1e-6)
    assert math.log(errors[0] / errors[1]) / math.log(4) == pytest.approx(4, abs=0.3)


def test_the_neural_ode_runs_backwards():
    ode, x = model(NeuralODE), drawn(BATCH, DIM)
    there = solve(RungeKutta4(ode), x, grid(50), Noise(0, range(BATCH)))
    back = solve(RungeKutta4(ode), there, grid(50).flip(0), Noise(0, range(BATCH)))
    torch.testing.assert_close(back, x, rtol=0, atol=1e-7)


def test_the_neural_cde_is_torchcdes():
    torchcde = pytest.importorskip("torchcde", reason="torchcde is the reference here")
    cde, x = model(NeuralCDE, channels=CHANNELS), drawn(BATCH, DIM)
    knots, values = torch.linspace(0, 1, 5, dtype=DOUBLE), drawn(BATCH, 5, CHANNELS, seed=3)

    class Matrix(nn.Module):
        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            return by_hand(cde.field, t, z, None).tanh().reshape(BATCH, DIM, CHANNELS)

    theirs = torchcde.cdeint(
        torchcde.CubicSpline(torchcde.natural_cubic_coeffs(values, knots), knots),
        Matrix(),
        x,
        grid(64)[[0, -1]],
        adjoint=False,
        method="rk4",
        options={"step_size": 1 / 64},
    )[:, -1]
    ours = solve(RungeKutta4(along(cde, control())), x, grid(64), Noise(0, range(BATCH)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert (ours - x).abs().max() > 0.1


def test_a_cde_is_not_changed_by_how_fast_its_path_is_run():
    cde, x, values = model(NeuralCDE, channels=CHANNELS), drawn(BATCH, DIM), drawn(BATCH, 2, CHANNELS)
    ends = [
        solve(
            RungeKutta4(along(cde, hermite(torch.tensor([0.0, span], dtype=DOUBLE), values))),
            x,
            grid(20) * span,
            Noise(0, range(BATCH)),
        )
        for span in (1.0, 7.0)
    ]
    torch.testing.assert_close(ends[0], ends[1])


KERNELS: dict[str, Any] = {
    "Euler": (lambda path: EulerMaruyama(along(model(NeuralSDE, channels=CHANNELS), path))),
    "Milstein": (lambda path: Milstein(along(model(LinearNoiseSDE, channels=CHANNELS), path))),
    "SRA": (lambda path: SRA(along(model(LangevinSDE, channels=CHANNELS), path))),
    "SRI": (lambda path: SRI(along(model(GeometricSDE, channels=CHANNELS), path))),
    "reversible Heun": (
        lambda path: ReversibleHeun(along(model(NeuralSDE, channels=CHANNELS, calculus="stratonovich"), path))
    ),
    "log": (lambda path: LogStep(along(model(GeometricSDE, channels=CHANNELS), path))),
    "exponential": (lambda path: ExponentialStep(along(model(LinearNoiseSDE, channels=CHANNELS), path))),
    "Runge-Kutta": (lambda path: RungeKutta4(along(model(NeuralCDE, channels=CHANNELS), path))),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_sample_does_not_depend_on_its_batch(name):
    values, knots, x = drawn(BATCH, 5, CHANNELS, seed=3), torch.linspace(0, 1, 5, dtype=DOUBLE), drawn(BATCH, DIM)
    rows = [4, 1]
    with torch.no_grad():
        whole = solve(KERNELS[name](natural(knots, values)), x, grid(7), Noise(2, range(BATCH)))
        part = solve(KERNELS[name](natural(knots, values[rows])), x[rows], grid(7), Noise(2, rows))
    torch.testing.assert_close(part, whole[rows], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_gradients_reach_every_weight_the_start_and_the_observations(name):
    values = drawn(BATCH, 5, CHANNELS, seed=3).requires_grad_()
    x = drawn(BATCH, DIM).requires_grad_()
    kernel = KERNELS[name](natural(torch.linspace(0, 1, 5, dtype=DOUBLE), values))
    end = simulate(kernel, x, grid(7), Noise(2, range(BATCH)))
    loss = end.square().sum()
    grads = torch.autograd.grad(loss, [x, values, *kernel.equation.model.parameters()])
    assert all(bool(grad.isfinite().all()) and bool((grad != 0).any()) for grad in grads)


def test_a_run_cut_in_two_needs_the_whole_grid():
    """One path is one run: the carry and the index go on where a run was cut."""
    kernel, x, noise = KERNELS["reversible Heun"](control()), drawn(BATCH, DIM), Noise(2, range(BATCH))
    with torch.no_grad():
        whole = simulate(kernel, x, grid(7), noise)
        carry = kernel.init(x, grid(7))
        for i in range(3):
            carry, x = kernel.step(carry, x, i, noise)
        fresh = Noise(2, range(BATCH))
        for i in range(3, 7):
            carry, x = kernel.step(carry, x, i, fresh)
    assert torch.equal(x, whole)


def test_single_and_double_precision_see_the_same_path():
    x, noise = drawn(BATCH, DIM), Noise(2, range(BATCH))
    with torch.no_grad():
        double = solve(EulerMaruyama(model(LinearNoiseSDE)), x, grid(50), noise)
        single = solve(EulerMaruyama(model(LinearNoiseSDE).float()), x.float(), grid(50), noise)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, double.float(), rtol=1e-4, atol=1e-4)


EXPLODING = process(lambda t, x: x**3, lambda t, x: 0.1 * x, "ito", separable=True)


@pytest.mark.parametrize(
    "run",
    [
        lambda x, times, noise: solve(EulerMaruyama(EXPLODING), x, times, noise),
        lambda x, times, noise: checkpointed(EulerMaruyama(EXPLODING), x, times, noise),
        lambda x, times, noise: adjoint(ReversibleHeun(restate(EXPLODING, "stratonovich")), x, times, noise),
    ],
    ids=["solve", "checkpointed", "adjoint"],
)
def test_a_state_that_is_not_finite_is_named(run):
    x = torch.tensor([[0.1], [30.0], [0.2], [40.0]], dtype=DOUBLE)
    with pytest.raises(FloatingPointError) as error:
        run(x, grid(10), Noise(0, range(4)))
    assert "of 10 of " in str(error.value)
    assert "made 2 of 4 states non-finite" in str(error.value) or "made 1 of 4 states non-finite" in str(error.value)
    assert "t = " in str(error.value)
    with pytest.raises(FloatingPointError, match="1 of 2 states were not finite before the first step"):
        run(torch.tensor([[math.nan], [0.1]], dtype=DOUBLE), grid(10), Noise(0, range(2)))


def test_the_step_named_is_the_one_that_did_it():
    late = process(lambda t, x: x / (t < 0.45).to(x), lambda t, x: 0 * x, "ito")
    with pytest.raises(FloatingPointError, match=r"step 6 of 10 of EulerMaruyama, from t = 0\.5 to 0\.6, made 2 of 2"):
        solve(EulerMaruyama(late), torch.ones(2, 1, dtype=DOUBLE), grid(10), Noise(0, range(2)))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (torch.tensor([0.0]), "two times or more in one dimension, but has shape (1,)"),
        (torch.zeros(2, 2), "but has shape (2, 2)"),
        (torch.tensor([0.0, 0.5, 0.5]), "strictly monotone"),
        (torch.tensor([0.0, 1.0, 0.5]), "turning"),
        (torch.tensor([0.0, math.inf]), "finite"),
    ],
)
def test_bad_grids_are_refused(times, message):
    for kernel in (EulerMaruyama(model(NeuralSDE)), RungeKutta4(model(NeuralODE)), SRA(model(LangevinSDE))):
        with pytest.raises(InputError) as error:
            simulate(cast("Any", kernel), drawn(2, DIM), times, Noise(0, range(2)))
        assert message in str(error.value)


@pytest.mark.parametrize("name", [name for name in KERNELS if name != "Runge-Kutta"])
def test_a_stochastic_equation_runs_forwards(name):
    with pytest.raises(InputError, match=r"must increase, but goes from 1.0 to 0.0"):
        simulate(KERNELS[name](control()), drawn(BATCH, DIM), grid(3).flip(0), Noise(0, range(BATCH)))


def _first(kernel: Any) -> Any:
    """The arguments of a kernel's first step."""
    x = drawn(1, DIM)
    return kernel.init(x, grid(2)), x, 0, Noise(0, [0])


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: model(LangevinSDE, channels=2).at(TIMES), "expected a control path of 2 channels, got none"),
        (lambda: along(model(LangevinSDE), control()).at(TIMES), "expected no control path, got one of 2"),
        (lambda: along(model(NeuralSDE, channels=3), control()).at(TIMES), "path of 3 channels, got one of 2"),
        (lambda: model(NeuralCDE, channels=2).at(TIMES), "control path of 2 channels to drive the equation"),
        (lambda: along(model(NeuralCDE, channels=1), control()).at(TIMES), "along(model, path)"),
        (lambda: model(NeuralODE, depth=0), "expected a depth of 1 hidden layer or more, got 0"),
        (lambda: RungeKutta4(model(NeuralSDE)).init(drawn(1, DIM), grid(2)), "without noise, got one in ito"),
        (lambda: SRA(model(LinearNoiseSDE)).init(drawn(1, DIM), grid(2)), "additive noise"),
        (lambda: SRI(model(NeuralSDE)).init(drawn(1, DIM), grid(2)), "separable"),
        (lambda: Milstein(model(NeuralSDE)).step(*_first(Milstein(model(NeuralSDE)))), "EulerMaruyama (ito) or Rev"),
    ],
)
def test_mistakes_are_named(run, message):
    with pytest.raises(ValueError, match="expected") as error:
        run()
    assert message in str(error.value)


def test_inference_mode_is_refused_where_a_derivative_is_needed_and_fine_elsewhere():
    bent = Process(lambda t: General(torch.sin, torch.cos, separable=True), "ito")
    with torch.inference_mode():
        with pytest.raises(ValueError, match=r"expected torch.no_grad\(\), not inference mode"):
            simulate(Milstein(bent), drawn(2, DIM), grid(2), Noise(0, range(2)))
        simulate(Milstein(model(GeometricSDE)), drawn(2, DIM), grid(2), Noise(0, range(2)))


def test_without_gradients_nothing_is_recorded():
    bent = Process(lambda t: General(torch.sin, torch.cos, separable=True), "ito")
    assert not simulate(Milstein(bent), drawn(2, DIM), grid(3), Noise(0, range(2))).requires_grad
    x = drawn(2, DIM).requires_grad_()
    with torch.no_grad():
        assert not simulate(Milstein(bent), x, grid(3), Noise(0, range(2))).requires_grad
    torch.autograd.gradcheck(lambda x: simulate(Milstein(bent), x, grid(3), Noise(0, range(2))), (x,))
