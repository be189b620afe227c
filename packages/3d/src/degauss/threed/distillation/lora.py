r"""Low-rank adaptation (Hu et al. 2022) of any network, from outside: its modules and weights are left as they are.

While it is active, each linear or convolution layer y = W x + b says

    y + U (D x + C told),   D: to ``rank`` numbers, as W goes to its outputs;   U: from them, zero at first,

where ``told`` is what the adapted network knows and the frozen one does not, a camera say. It is added by forward
hooks that exist no longer than they are used, so one network serves as both: the prior, and the score of the renders.
(ProlificDreamer adds its camera to the U-net's time embedding instead, of which a network in general has none.)
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from degauss.core.noise import Noise


class LowRank(nn.Module):
    """The additions to a network; its parameters are all there is to train.

    ``rank`` >= 1; ``conditions``: size of ``told``, 0 for none; ``noise``: of one sample, for what is random at first.
    Grouped convolutions are left alone. Raises ValueError for a network without a layer to adapt.
    """

    def __init__(self, network: nn.Module, noise: Noise, rank: int = 4, conditions: int = 0) -> None:
        super().__init__()
        self.layers = {
            name: layer
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        }
        if not self.layers:
            raise ValueError("the network has no linear or convolution layer to adapt")
        if rank < 1:
            raise ValueError(f"a rank is at least 1, got {rank}")
        adapters = {_key(name): Adapter(layer, rank, conditions) for name, layer in self.layers.items()}
        self.adapters = nn.ModuleDict(adapters)
        with torch.no_grad():
            for draw, adapter in enumerate(adapters.values()):
                adapter.start(noise, draw)

    @contextmanager
    def active(self, told: Tensor | None = None) -> Generator[None]:
        """While it lasts, the network is the adapted one; ``told`` ``[rows, conditions]``, of a batch of rows."""
        with ExitStack() as stack:
            for name, layer in self.layers.items():
                adapter = self.adapters[_key(name)]

                def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor, adapter: nn.Module = adapter) -> Tensor:
                    return output + adapter(args[0], told).to(output.dtype)

                stack.callback(layer.register_forward_hook(add).remove)
            yield


def _key(name: str) -> str:
    """A layer's name as that of a module, which has no dots; the network itself is a layer without a name."""
    return name.replace(".", "/") or "/"


class Adapter(nn.Module):
    """What one layer says besides: U (D x + C told), in float32."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, conditions: int) -> None:
        super().__init__()
        weight = layer.weight
        if isinstance(layer, nn.Conv2d):
            self.down: nn.Module = _convolution(layer, rank)
            self.up: nn.Module = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = nn.Linear(rank, layer.out_features, bias=False)
        self.told = nn.Linear(conditions, rank, bias=False) if conditions else None
        self.to(weight.device)

    def start(self, noise: Noise, draw: int) -> None:
        """Normal weights of variance 1 / (inputs), and zero in U."""
        for part, weight in enumerate(self.parameters()):
            spread = 1 / math.sqrt(weight[0].numel())
            weight.copy_(spread * noise.fork(draw).normal(weight[None], part)[0])
        for weight in self.up.parameters():
            weight.zero_()

    def forward(self, x: Tensor, told: Tensor | None) -> Tensor:
        low = self.down(x.float())
        # A layer that does not see the batch's rows, a table of positions say, is not told.
        if self.told is not None and told is not None and len(told) == len(low):
            added = self.told(told)
            low = low + (added[..., None, None] if isinstance(self.down, nn.Conv2d) else _between(added, low))
        return self.up(low)


def _between(added: Tensor, like: Tensor) -> Tensor:
    """``[rows, rank]`` ready to be added to ``[rows, ..., rank]``."""
    return added.reshape(len(added), *(1,) * (like.ndim - 2), added.shape[-1])


def _convolution(layer: nn.Conv2d, rank: int) -> nn.Conv2d:
    """A convolution of the same geometry to ``rank`` channels."""
    padding = layer.padding
    return nn.Conv2d(
        layer.in_channels,
        rank,
        (layer.kernel_size[0], layer.kernel_size[1]),
        (layer.stride[0], layer.stride[1]),
        padding if isinstance(padding, str) else (padding[0], padding[1]),
        (layer.dilation[0], layer.dilation[1]),
        bias=False,
        padding_mode=layer.padding_mode,
    )
