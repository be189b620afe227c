"""The same states and gradients as torchsde on the same Brownian increments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from degauss.core import Noise, simulate
from degauss.core.observe import Trajectory
from degauss.core.sde import (
    PUBLISHED,
    SRA,
    SRI,
    Equation,
    EulerMaruyama,
    GeometricSDE,
    LangevinSDE,
    LinearNoiseSDE,
    Milstein,
    NeuralSDE,
    ReversibleHeun,
    adjoint,
)
from degauss.core.sde.runge_kutta import _draw, _halved
from degauss.core.sde.timeline import timeline

torchsde = pytest.importorskip("torchsde", reason="torchsde is the reference here")

pytestmark = pytest.mark.filterwarnings("ignore")
DOUBLE = torch.float64
BATCH, DIM, STEPS = 5, 3, 16
H = 1 / STEPS  # a power of two: torchsde, which adds steps up, is at exactly the times of the grid
GRID = torch.linspace(0, 1, STEPS + 1, dtype=DOUBLE)


class Theirs(nn.Module):
    """An equation of ours in the form torchsde asks for."""

    def __init__(self, equation: Equation, noise_type: str) -> None:
        super().__init__()
        self.equation = equation
        self.sde_type = equation.calculus
        self.noise_type = noise_type

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return self.equation.at(t.reshape(1))[0].drift(y)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        g = self.equation.at(t.reshape(1))[0].diffusion(y).expand_as(y)
        return torch.diag_embed(g) if self.noise_type == "additive" else g


class Increments:
    """Our Brownian path, handed to torchsde."""

    def __init__(self, noise: Noise, like: Tensor, areas: bool) -> None:
        self.like, self.noise = like, noise
        self.line, self.halves = timeline(GRID), _halved(GRID)
        self.areas = areas
        self.dtype, self.device, self.shape = like.dtype, like.device, like.shape
        self.levy_area_approximation = "space-time" if areas else "none"

    def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Any:
        del return_A
        i = round(float(ta) / H)
        assert round(float(tb) / H) == i + 1
        if not self.areas:
            return self.noise.brownian(self.line.clock, i, self.like) * math.sqrt(H)
        z, area = _draw(self.halves, i, self.like, self.noise)
        w = z * math.sqrt(H)
        return (w, area * H * math.sqrt(H)) if return_U else w


def start() -> Tensor:
    return torch.randn(BATCH, DIM, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def noise() -> Noise:
    return Noise(9, range(BATCH))


def both(kernel: Any, method: str, noise_type: str, areas: bool = False) -> tuple[Tensor, Tensor]:
    """All states, ours and theirs."""
    seen, x = Trajectory(), start()
    simulate(kernel, x, GRID, noise(), observe=(seen,))
    bm = Increments(noise(), x, areas)
    theirs = torchsde.sdeint(Theirs(kernel.equation, noise_type), x, GRID, bm=bm, method=method, dt=H)
    return seen.stack(), theirs[1:]


def model(kind: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(DIM, width=8, **options).double()


@pytest.mark.parametrize(
    ("kernel", "method", "noise_type", "areas"),
    [
        (EulerMaruyama(model(NeuralSDE)), "euler", "diagonal", False),
        (EulerMaruyama(model(LangevinSDE)), "euler", "diagonal", False),
        (EulerMaruyama(model(LinearNoiseSDE, stabilisers=PUBLISHED)), "euler", "diagonal", False),
        (Milstein(model(LinearNoiseSDE)), "milstein", "diagonal", False),
        (Milstein(model(GeometricSDE, stabilisers=PUBLISHED)), "milstein", "diagonal", False),
        (SRI(model(GeometricSDE)), "srk", "diagonal", True),
        (SRI(model(LinearNoiseSDE, stabilisers=PUBLISHED)), "srk", "diagonal", True),
        (SRA(model(LangevinSDE)), "srk", "additive", True),
        (ReversibleHeun(model(NeuralSDE, calculus="stratonovich")), "reversible_heun", "diagonal", False),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "equation") else None,
)
def test_states_are_those_of_torchsde(kernel, method, noise_type, areas):
    with torch.no_grad():
        ours, theirs = both(kernel, method, noise_type, areas)
    assert (ours[-1] - start()).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_adjoint_gives_the_gradients_of_torchsdes_reversible_adjoint():
    equation = model(NeuralSDE, calculus="stratonovich")
    mine, other = start().requires_grad_(), start().requires_grad_()
    ours = adjoint(ReversibleHeun(equation), mine, GRID, noise(), keep=(8, 16))
    ours.square().sum().backward()
    found = [parameter.grad.clone() for parameter in equation.parameters()]
    equation.zero_grad()
    theirs = torchsde.sdeint_adjoint(
        Theirs(equation, "diagonal"),
        other,
        GRID[[0, 8, 16]],
        bm=Increments(noise(), other, False),
        method="reversible_heun",
        adjoint_method="adjoint_reversible_heun",
        dt=H,
    )
    theirs[1:].square().sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-9)
    for ours_, parameter in zip(found, equation.parameters(), strict=True):
        torch.testing.assert_close(ours_, parameter.grad, rtol=1e-9, atol=1e-9)


def test_gradients_of_euler_are_those_of_torchsde():
    equation = model(LinearNoiseSDE)
    gradients = []
    simulate(EulerMaruyama(equation), start(), GRID, noise()).square().sum().backward()
    gradients.append([parameter.grad.clone() for parameter in equation.parameters()])
    equation.zero_grad()
    bm = Increments(noise(), start(), False)
    end = torchsde.sdeint(Theirs(equation, "diagonal"), start(), GRID[[0, -1]], bm=bm, method="euler", dt=H)[-1]
    end.square().sum().backward()
    gradients.append([parameter.grad for parameter in equation.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
