r"""Stochastic differential equations with diagonal noise: what an integrator is given.

    dx = f(t, x) dt + g(t, x) dW,    W with as many independent components as x.

An *equation* states its calculus, and gives an *instant* for every time of a grid: the drift and the diffusion at
that time, as functions of the state alone. A grid is known before the run, so whatever depends on time alone (the
control path, sigma(t), time features) is computed for all times at once, and no step does arithmetic on times.

An instant also says how the noise enters, for the integrators that rely on it:

    ``General``    f(x) dt + g(x) dW
    ``Additive``   f(x) dt + sigma dW
    ``Linear``     f(x) dt + sigma x dW
    ``Geometric``  x (gamma(x) dt + sigma dW)

**Calculus.** The same drift and diffusion mean different processes to Ito and to Stratonovich; they agree if

    f_Ito = f_Stratonovich + g g' / 2,    g' = dg_i / dx_i.

An integrator computes one of them, and refuses an equation stated in the other; ``restate`` translates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

Calculus = Literal["ito", "stratonovich"]
Function = Callable[[Tensor], Tensor]


class Instant(ABC):
    """An equation at one time. States are ``[batch, *event]``; a diffusion broadcasts to them."""

    separable: bool = True
    """Whether g_i depends on x_i alone. Only then is the diagonal of its Jacobian the gradient of its sum."""

    @abstractmethod
    def drift(self, x: Tensor, /) -> Tensor:
        """f(x), in the shape of x."""

    @abstractmethod
    def diffusion(self, x: Tensor, /) -> Tensor:
        """g(x)."""

    @abstractmethod
    def diffusion_and_slope(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """g(x) and dg_i/dx_i. ValueError unless ``separable``."""

    @abstractmethod
    def corrected(self, share: float, /) -> Instant:
        """The same noise with drift f + share g g'. ValueError unless ``separable``."""


@dataclass(frozen=True)
class General(Instant):
    """f(x) dt + g(x) dW. Say ``separable`` where g_i depends on x_i alone; nothing can check it."""

    force: Function
    spread: Function
    separable: bool = False

    def drift(self, x: Tensor, /) -> Tensor:
        return self.force(x)

    def diffusion(self, x: Tensor, /) -> Tensor:
        return self.spread(x)

    def diffusion_and_slope(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        self._check_separable()
        if torch.is_inference_mode_enabled():
            raise ValueError("the derivative of the diffusion is needed: expected torch.no_grad(), not inference mode")
        g = self.spread(x)
        with torch.enable_grad():
            y = x if x.requires_grad and g.requires_grad else x.detach().requires_grad_()
            # g_i depends on x_i alone, so the gradient of the sum is the diagonal.
            total = (g if y is x else self.spread(y)).sum()
        if not total.requires_grad:
            return g, torch.zeros_like(x)
        return g, torch.autograd.grad(total, y, create_graph=g.requires_grad, materialize_grads=True)[0]

    def corrected(self, share: float, /) -> General:
        self._check_separable()
        return replace(self, force=partial(self._shifted, share=share))

    def _shifted(self, x: Tensor, share: float) -> Tensor:
        g, slope = self.diffusion_and_slope(x)
        return torch.addcmul(self.force(x), g, slope, value=share)

    def _check_separable(self) -> None:
        if not self.separable:
            raise ValueError(
                "the derivative of the diffusion is needed, and expected g_i to depend on x_i alone: say separable if "
                "that is so, else take EulerMaruyama (ito) or ReversibleHeun (stratonovich), which need none"
            )


@dataclass(frozen=True)
class Additive(Instant):
    """f(x) dt + sigma dW: Ito and Stratonovich agree."""

    force: Function
    volatility: Tensor

    def drift(self, x: Tensor, /) -> Tensor:
        return self.force(x)

    def diffusion(self, x: Tensor, /) -> Tensor:
        del x
        return self.volatility

    def diffusion_and_slope(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        del x
        return self.volatility, torch.zeros_like(self.volatility)

    def corrected(self, share: float, /) -> Instant:
        del share
        return self


@dataclass(frozen=True)
class Linear(Instant):
    """f(x) dt + sigma x dW."""

    force: Function
    volatility: Tensor

    def drift(self, x: Tensor, /) -> Tensor:
        return self.force(x)

    def diffusion(self, x: Tensor, /) -> Tensor:
        return self.volatility * x

    def diffusion_and_slope(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        return self.volatility * x, self.volatility

    def corrected(self, share: float, /) -> Linear:
        return replace(self, force=partial(self._shifted, share=share))

    def _shifted(self, x: Tensor, share: float) -> Tensor:
        return torch.addcmul(self.force(x), self.volatility.square(), x, value=share)


@dataclass(frozen=True)
class Geometric(Instant):
    """x (gamma(x) dt + sigma dW): a state keeps its sign."""

    growth: Function
    volatility: Tensor

    def drift(self, x: Tensor, /) -> Tensor:
        return x * self.growth(x)

    def diffusion(self, x: Tensor, /) -> Tensor:
        return self.volatility * x

    def diffusion_and_slope(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        return self.volatility * x, self.volatility

    def corrected(self, share: float, /) -> Geometric:
        return replace(self, growth=partial(self._shifted, share=share))

    def _shifted(self, x: Tensor, share: float) -> Tensor:
        return torch.add(self.growth(x), self.volatility.square(), alpha=share)


class Equation(Protocol):
    """What an integrator is given."""

    @property
    def calculus(self) -> Calculus | None:
        """How dW is meant; None where there is no noise."""
        ...

    def at(self, times: Tensor, /) -> Sequence[Instant]:
        """The instants of some times, float64 ``[n]`` on the host, in the units of the grid."""
        ...

    def tensors(self) -> Sequence[Tensor]:
        """Every tensor that drift and diffusion depend on and that gradients should reach; none made of another."""
        ...


@dataclass(frozen=True)
class Process:
    """The equation whose instant at time t (a float64 tensor without dimensions) is ``instant(t)``."""

    instant: Callable[[Tensor], Instant]
    calculus: Calculus | None
    parameters: tuple[Tensor, ...] = ()

    def at(self, times: Tensor, /) -> tuple[Instant, ...]:
        return tuple(map(self.instant, times.unbind()))

    def tensors(self) -> tuple[Tensor, ...]:
        return self.parameters


def process(
    drift: Callable[[Tensor, Tensor], Tensor],
    diffusion: Callable[[Tensor, Tensor], Tensor],
    calculus: Calculus,
    *,
    separable: bool = False,
    parameters: Sequence[Tensor] = (),
) -> Process:
    """The equation of two functions of (t, x); ``separable``: the i-th diffusion depends on x_i alone."""

    def instant(t: Tensor) -> Instant:
        return General(partial(drift, t), partial(diffusion, t), separable)

    return Process(instant, calculus, tuple(parameters))


@dataclass(frozen=True)
class Restated:
    """An equation with the same solutions, in ``calculus``; its drift has + or - g g'/2 added. From ``restate``."""

    equation: Equation
    calculus: Calculus

    def at(self, times: Tensor, /) -> tuple[Instant, ...]:
        share = 0.5 if self.calculus == "ito" else -0.5
        return tuple(instant.corrected(share) for instant in self.equation.at(times))

    def tensors(self) -> Sequence[Tensor]:
        return self.equation.tensors()


def restate(equation: Equation, calculus: Calculus) -> Equation:
    """The equation of the same process in the other calculus, or itself where it is stated so already."""
    return equation if equation.calculus in (None, calculus) else Restated(equation, calculus)


def check_calculus(method: object, equation: Equation, *accepted: Calculus) -> None:
    """ValueError unless the method computes the solutions of this equation."""
    if equation.calculus is None or equation.calculus in accepted:
        return
    name = type(method).__name__
    raise ValueError(
        f"{name} expected an equation in the {' or '.join(accepted)} calculus, got one in {equation.calculus}: "
        f"restate(equation, {accepted[0]!r}) is the same process"
    )
