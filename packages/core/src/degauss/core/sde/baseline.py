r"""The equations that stable neural SDEs are compared with; states ``[batch, dim]``.

    ``NeuralODE``   dz = f(t, z) dt                      Chen et al. 2018, Neural ordinary differential equations
    ``NeuralCDE``   dz = F(z) dX = F(z) X'(t) dt         Kidger et al. 2020, Neural controlled differential equations
    ``NeuralSDE``   dz = f(t, z) dt + g(t, z) dW         diagonal noise

The coordinates of the last one's g depend on all of z: methods that need g_i to depend on z_i alone refuse it, and
it cannot be restated. So it is learned in either calculus: Ito for ``EulerMaruyama``, Stratonovich for
``ReversibleHeun`` and its ``adjoint``.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from degauss.core.sde.control import Path
from degauss.core.sde.equation import Additive, Calculus, Function, General, Instant
from degauss.core.sde.layers import Clock, Field


class NeuralODE(nn.Module):
    """dz = f(t, z, X(t)) dt; ``channels``: of the control path, 0 for none."""

    def __init__(self, dim: int, *, width: int, depth: int = 1, channels: int = 0) -> None:
        super().__init__()
        self.calculus: Calculus | None = None
        self.field = Field(dim, width, dim, depth, clock=Clock(periodic=False), channels=channels)

    def at(self, times: Tensor, path: Path | None = None, /) -> tuple[Instant, ...]:
        silence = self.field.state.bias.new_zeros(())
        forces = self.field.at(times, None if path is None else path(times))
        return tuple(Additive(force, silence) for force in forces)

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.parameters())


class NeuralCDE(nn.Module):
    """dz = tanh(F(z)) X'(t) dt with a matrix F ``[dim, channels]`` for each state."""

    def __init__(self, dim: int, *, width: int, channels: int, depth: int = 1) -> None:
        super().__init__()
        self.calculus: Calculus | None = None
        self.channels = channels
        self.field = Field(dim, width, dim * channels, depth, clock=None, channels=0)

    def at(self, times: Tensor, path: Path | None = None, /) -> tuple[Instant, ...]:
        """ValueError without a path of ``channels`` channels."""
        speeds = None if path is None else path.derivative(times)
        if speeds is None or speeds.shape[-1] != self.channels:
            raise ValueError(
                f"expected a control path of {self.channels} channels to drive the equation: along(model, path)"
            )
        silence = speeds.new_zeros(())
        (field,) = self.field.at(times[:1])
        return tuple(Additive(partial(_driven, field=field, speed=speed), silence) for speed in speeds.unbind())

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.parameters())


def _driven(z: Tensor, *, field: Function, speed: Tensor) -> Tensor:
    """tanh(F(z)) X', with X' ``[batch, channels]``."""
    matrix = field(z).tanh().unflatten(-1, (-1, speed.shape[-1]))
    return (matrix @ speed[..., None]).squeeze(-1)


class NeuralSDE(nn.Module):
    """dz = f(t, z, X(t)) dt + g(t, z) dW; ``channels``: of the control path, 0 for none as in the plain model."""

    def __init__(self, dim: int, *, width: int, depth: int = 1, channels: int = 0, calculus: Calculus = "ito") -> None:
        super().__init__()
        self.calculus: Calculus | None = calculus
        clock = Clock(periodic=False)
        self.force = Field(dim, width, dim, depth, clock=clock, channels=channels)
        self.spread = Field(dim, width, dim, depth, clock=clock, channels=0)

    def at(self, times: Tensor, path: Path | None = None, /) -> tuple[Instant, ...]:
        forces = self.force.at(times, None if path is None else path(times))
        return tuple(map(General, forces, self.spread.at(times)))

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.parameters())
