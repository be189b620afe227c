"""What absorbing and uniform corruption have in common, and what a sampler of them is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.jump.rates import Level, Rates
from degauss.core.kernel import Kernel
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical


class Process(Protocol):
    """Independent corruption of the positions of a state, integers ``[batch, length]``.

    Clean tokens are 0, ..., vocabulary - 1; a state has ``symbols`` values. Times are 0-d, ``[batch]`` or
    ``[batch, length]``, probabilities float64 with the symbols last.
    """

    @property
    def vocabulary(self) -> int: ...

    @property
    def symbols(self) -> int: ...

    @property
    def rates(self) -> Rates: ...

    def start(self, like: Tensor, noise: Noise) -> Tensor:
        """A state at t = 1 in the shape and on the device of ``like``."""
        ...

    def corrupt(self, x0: Tensor, t: Tensor, noise: Noise, draw: int = 0) -> Tensor:
        """A draw from q(x_t | x_0)."""
        ...

    def marginal(self, x0: Tensor, t: Tensor) -> Tensor:
        """q(x_t | x_0), ``[batch, length, symbols]``."""
        ...

    def evidence(self, x: Tensor, t: Tensor) -> Tensor:
        """q(x_t | x_0 = v) for every token v, up to a factor without v: ``[batch, length, vocabulary]``."""
        ...

    def posterior(self, x: Tensor, x0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """q(x_s | x_t, x_0) for s <= t, ``[batch, length, symbols]``."""
        ...

    def reverse(self, posterior: Categorical, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """p(x_s | x_t) of each position, given p(x_0 | x_t), for s <= t: ``[batch, length, symbols]``."""
        ...

    def rate_matrix(self, t: Tensor) -> Tensor:
        """The generator of one position at time t (0-d), ``[symbols, symbols]``; rows sum to 0."""
        ...

    def reverse_rates(self, posterior: Categorical, x: Tensor, t: Tensor) -> Tensor:
        """The rate from x to every other symbol, run backwards, ``[batch, length, symbols]``; 0 at x itself."""
        ...

    def step_back(self, posterior: Categorical, x: Tensor, early: Level, late: Level) -> Tensor:
        """``reverse`` for levels that are known."""
        ...

    def leap(self, posterior: Categorical, x: Tensor, late: Level, span: float) -> Tensor:
        """Where ``span`` of time leads with the reverse rates held, ``[batch, length, symbols]``."""
        ...


P_contra = TypeVar("P_contra", bound=Process, contravariant=True)


class Solver(Protocol[P_contra]):
    """A method waiting for its denoiser and process: ``ancestral()``, ``first_hitting()``, ..."""

    def __call__(self, denoiser: Denoiser[Categorical], process: P_contra, /) -> Kernel[Any]: ...


StepLaw = Callable[[Tensor, float, float], Tensor]
"""(states, t, s) -> the law of each position at s < t, independent given the state, ``[batch, length, symbols]``."""


def per_token(value: Tensor, x: Tensor) -> Tensor:
    """What is known per batch (0-d), sample (``[batch]``) or token, ready to meet x ``[batch, length]``."""
    return value[:, None] if value.ndim == 1 and x.ndim == 2 else value


def level_of(rates: Rates, t: Tensor, x: Tensor) -> Level:
    """The level at times t, ready to meet x."""
    return Level(*(per_token(value, x) for value in rates(t)))
