r"""SpliceAI (Jaganathan et al. 2019): where a transcript is spliced, from 5,000 bases to either side.

Five residual networks of one form, whose answers are averaged. With x the one-hot sequence between 5,000 unknown bases,

    h = W x,   skip = W' h;   four groups of four blocks  h += conv(act(norm(conv(act(norm(h))))))  and  skip += W'' h,

with kernels of 11, 11, 21 and 41 places and dilations of 1, 4, 10 and 25 in the groups; then softmax(V skip) over
(none, acceptor, donor) for each base. All sequences are read as the transcript's own strand.

The weights are those of the package ``spliceai`` (the extra ``splice``), read from its HDF5 files; neither Keras nor
TensorFlow is asked. Their licence forbids commercial use.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from degauss.core.errors import InputError

CONTEXT = 5000
CLASSES = ("none", "acceptor", "donor")
_CHANNELS = 32
_GROUPS = ((11, 1), (11, 4), (21, 10), (41, 25))
_BLOCKS = 4


class Block(nn.Module):
    """Two dilated convolutions, each after a normalisation, added to what came in."""

    def __init__(self, kernel: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for _ in range(2):
            self.layers.append(nn.BatchNorm1d(_CHANNELS, eps=1e-3))
            self.layers.append(nn.ReLU())
            self.layers.append(nn.Conv1d(_CHANNELS, _CHANNELS, kernel, dilation=dilation, padding="same"))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.layers(h)


class SpliceNet(nn.Module):
    """One of the five networks. Its parts are made in the order in which the published file numbers them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, _CHANNELS, 1)
        self.skips = nn.ModuleList([nn.Conv1d(_CHANNELS, _CHANNELS, 1)])
        self.groups = nn.ModuleList()
        for kernel, dilation in _GROUPS:
            self.groups.append(nn.Sequential(*(Block(kernel, dilation) for _ in range(_BLOCKS))))
            self.skips.append(nn.Conv1d(_CHANNELS, _CHANNELS, 1))
        self.head = nn.Conv1d(_CHANNELS, len(CLASSES), 1)

    def forward(self, weights: Tensor) -> Tensor:
        """Probabilities ``[batch, L, 3]`` of `CLASSES` for sequences ``[batch, L, 4]``, rows of the simplex."""
        h = self.stem(pad(weights.mT, (CONTEXT, CONTEXT)))
        skip = self.skips[0](h)
        for group, onto in zip(self.groups, self.skips[1:], strict=True):
            h = group(h)
            skip = skip + onto(h)
        return self.head(skip[..., CONTEXT:-CONTEXT]).softmax(1).mT

    def convolutions(self) -> Iterator[nn.Conv1d]:
        """In the order of the file: conv1d_1, conv1d_2, ..."""
        yield self.stem
        yield _conv(self.skips[0])
        for group, onto in zip(self.groups, self.skips[1:], strict=True):
            yield from (part for part in group.modules() if isinstance(part, nn.Conv1d))
            yield _conv(onto)
        yield self.head

    def normalisations(self) -> Iterator[nn.BatchNorm1d]:
        """In the order of the file: batch_normalization_1, ..."""
        return (part for part in self.groups.modules() if isinstance(part, nn.BatchNorm1d))


def _conv(module: nn.Module) -> nn.Conv1d:
    assert isinstance(module, nn.Conv1d)
    return module


def read_network(path: Path) -> SpliceNet:
    """A network from a file of the package; `InputError` where it does not hold one."""
    import h5py

    network = SpliceNet()
    try:
        with h5py.File(path) as file:
            stored: Any = file["model_weights"]
            for number, conv in enumerate(network.convolutions(), 1):
                name = f"conv1d_{number}"
                _copy(conv.weight, stored[f"{name}/{name}/kernel:0"][()].transpose(2, 1, 0))
                _copy(conv.bias, stored[f"{name}/{name}/bias:0"][()])
            for number, norm in enumerate(network.normalisations(), 1):
                name = f"batch_normalization_{number}"
                values = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
                for value, key in zip(values, ("gamma", "beta", "moving_mean", "moving_variance"), strict=True):
                    _copy(value, stored[f"{name}/{name}/{key}:0"][()])
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: holds no network of SpliceAI ({error}); expected a file of spliceai 1.3.") from None
    return network.eval().requires_grad_(False)


@torch.no_grad()
def _copy(value: Tensor | None, stored: Any) -> None:
    assert value is not None
    if tuple(stored.shape) != tuple(value.shape):
        raise KeyError(f"shape {tuple(stored.shape)} in place of {tuple(value.shape)}")
    value.copy_(torch.from_numpy(stored.copy()))


def shipped_networks(count: int = 5) -> list[SpliceNet]:
    """The first networks of the installed package; `InputError` where it is not installed."""
    spec = find_spec("spliceai")  # found, never imported: its import asks for TensorFlow
    if spec is None or spec.origin is None:
        raise InputError("reward splice needs spliceai, which is not there: pip install 'degauss-bio[splice]'.")
    folder = Path(spec.origin).parent / "models"
    return [read_network(folder / f"spliceai{number}.h5") for number in range(1, count + 1)]
