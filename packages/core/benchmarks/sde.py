r"""How fast neural SDEs run: ours, torchsde's best setting and its default; and natural splines against torchcde.

The equation is a linear-noise SDE driven by a natural cubic spline through 50 irregular observations of 7 channels,
dz = gamma(t, z, X(t)) dt + sigma(t) z dW, 256 states of 32 numbers, 100 steps, one thread, float32, the same weights
for all. *forward* is without gradients, *both* with the backward pass of a scalar loss to all weights.

    degauss     ``simulate(EulerMaruyama(...))`` and ``ExponentialStep``, keyed Brownian paths included
    drawn       torchsde, method="euler", the increments drawn beforehand by one call of torch.randn: no Brownian path
                at all, but nothing in torchsde is faster
    interval    the same with torchsde's BrownianInterval told of the step, the fastest that is a path
    SRK         torchsde's method for diagonal noise when told none, and the Brownian interval that it then makes
    default     ``sdeint(sde, x, ts)`` told nothing at all: SRK in steps of 0.001, ten times as many

torchsde evaluates the path with torchcde in every step, since f(t, z) is all that it is told; that is how the
published code of these models runs. *uncontrolled* lines are the same equation without a control path.

All contestants take turns; a figure is the fastest of the rounds, in milliseconds of processor time.

    python packages/core/benchmarks/sde.py [rounds]
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.sde import EulerMaruyama, ExponentialStep, LinearNoiseSDE, Path, along, hermite, linear, natural

BATCH, DIM, STEPS, LENGTH, CHANNELS = 256, 32, 100, 50, 7
# In float64, where the steps of torchsde, which adds dt up, end at 1 and not beside it.
GRID = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
ENDS = GRID[[0, -1]]

Run = Callable[[], Any]


class Theirs(nn.Module):
    """The same equation, with the same weights, as torchsde asks for it."""

    sde_type = "ito"
    noise_type = "diagonal"

    def __init__(self, model: LinearNoiseSDE, spline: Any) -> None:
        super().__init__()
        self.model = model
        self.spline = spline

    def f(self, t: Tensor, z: Tensor) -> Tensor:
        gamma, t = self.model.gamma, t.to(z)
        assert gamma.time is not None
        hidden = gamma.state(z) + gamma.time(t.reshape(1))
        if gamma.control is not None:
            hidden = hidden + gamma.control(self.spline.evaluate(t))
        for layer in gamma.rest:
            hidden = layer(0.909 * functional.silu(hidden))
        return hidden

    def g(self, t: Tensor, z: Tensor) -> Tensor:
        return self.model.sigma(t.to(z).reshape(1)) * z


class Drawn:
    """Increments drawn beforehand and handed out in order."""

    shape = (BATCH, DIM)
    dtype = torch.float32
    device = torch.device("cpu")
    levy_area_approximation = "none"

    def __init__(self) -> None:
        self.increments = iter((torch.randn(STEPS, BATCH, DIM) * math.sqrt(1 / STEPS)).unbind())

    def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False) -> Tensor:
        del ta, tb, return_U, return_A
        return next(self.increments)


def contestants(channels: int) -> dict[str, Callable[[], Tensor]]:
    """Every way to the state at time 1, given the same start; ``channels`` of the control path, 0 for none."""
    import torchcde
    import torchsde

    torch.manual_seed(0)
    model = LinearNoiseSDE(DIM, width=DIM, channels=channels)
    times = torch.rand(LENGTH, dtype=torch.float64).cumsum(0)
    times = (times - times[0]) / (times[-1] - times[0])
    values, start = torch.randn(BATCH, LENGTH, CHANNELS), torch.randn(BATCH, DIM)
    equation = along(model, natural(times, values)) if channels else model
    spline = torchcde.CubicSpline(torchcde.natural_cubic_coeffs(values, times.float()), times.float())
    theirs = Theirs(model, spline)

    def ours(method: Any) -> Tensor:
        return simulate(method(equation), start, GRID, Noise(torch.seed(), range(BATCH)))

    def peer(brownian: Callable[[], Any]) -> Tensor:
        return torchsde.sdeint(theirs, start, ENDS, bm=brownian(), method="euler", dt=1 / STEPS)[-1]

    interval = partial(torchsde.BrownianInterval, 0.0, 1.0, size=(BATCH, DIM), dt=1 / STEPS)
    return {
        "Euler": partial(ours, EulerMaruyama),
        "exponential": partial(ours, ExponentialStep),
        "drawn": partial(peer, Drawn),
        "interval": partial(peer, interval),
        "SRK": lambda: torchsde.sdeint(theirs, start, ENDS, dt=1 / STEPS)[-1],
        "default": lambda: torchsde.sdeint(theirs, start, ENDS)[-1],
    }


def forward(run: Callable[[], Tensor]) -> None:
    with torch.no_grad():
        run()


def both(run: Callable[[], Tensor]) -> None:
    run().square().mean().backward()


def fastest(runs: Mapping[str, Run], rounds: int) -> dict[str, float]:
    """Milliseconds of each, the fastest of the rounds; what takes long takes part in the first only."""
    found = dict.fromkeys(runs, math.inf)
    for turn in range(rounds):
        for name, run in runs.items():
            if turn and found[name] > 1000:
                continue
            start = time.process_time()
            run()
            found[name] = min(found[name], (time.process_time() - start) * 1e3)
    return found


def report(title: str, times: Mapping[str, float], ours: str) -> None:
    """A line: milliseconds of each, and the ratio to ours."""
    parts = [f"{name} {value:8.1f} ({value / times[ours]:6.2f})" for name, value in times.items()]
    print(f"{title:<22}", "  ".join(parts), flush=True)


def splines(rounds: int) -> None:
    """Coefficients of 64 series of 100 observations of 7 channels, half of them missing."""
    import torchcde

    torch.manual_seed(0)
    times = torch.rand(100, dtype=torch.float64).add(0.1).cumsum(0)
    values = torch.randn(64, 100, 7)
    values[torch.rand(values.shape) < 0.5] = math.nan
    peers: dict[Callable[..., Path], Callable[..., Any]] = {
        natural: torchcde.natural_cubic_coeffs,
        hermite: torchcde.hermite_cubic_coefficients_with_backward_differences,
        linear: torchcde.linear_interpolation_coeffs,
    }
    for path, peer in peers.items():
        runs: dict[str, Run] = {
            "degauss": partial(path, times, values),
            "torchcde": partial(peer, values, times.float()),
        }
        report(f"{path.__name__}, 50 % missing", fastest(runs, rounds), "degauss")


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torchsde")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print(f"{BATCH} x {DIM}, {STEPS} steps, one thread, torch {torch.__version__}: ms (ratio to the first)")
    for channels in (CHANNELS, 0):
        ways = contestants(channels)
        for task in (forward, both):
            runs: dict[str, Run] = {name: partial(task, way) for name, way in ways.items()}
            name = "controlled" if channels else "uncontrolled"
            report(f"{name}, {task.__name__}", fastest(runs, rounds), "Euler")
    splines(rounds)


if __name__ == "__main__":
    main()
