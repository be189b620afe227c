r"""One small network for many words: it is told a word, and answers with voxels.

A word is a row of a table; two layers make a style w of it. A lattice of 4^3 points, linear in w, is doubled until it
has the voxels' resolution, with a convolution each time whose normalised channels the style scales and shifts,

    h <- silu((1 + a(w)) norm(conv(h)) + b(w)),

and a last layer makes of it what is added to the common start, v and colour features as in `degauss.threed.voxels`.
That layer is 0 at first, so that every word begins as the same grey ball. (StyleGAN's layers in three dimensions, as
ScaleDreamer's 3DConv-net has them, at a size for a CPU and without its random input.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import interpolate, silu

from degauss.core.checkpoint import CONFIG, as_tuples, load_model, load_weights, save_model
from degauss.core.errors import InputError, check_option, check_range
from degauss.core.files import read_json, settled
from degauss.core.noise import Noise
from degauss.threed.cameras import Cameras
from degauss.threed.rendering import Rendered
from degauss.threed.volume import Blob, March
from degauss.threed.voxels import VoxelConfig, Voxels

KIND = "degauss.threed/generator"
MODEL = "model"
"""Where a training's folder keeps it."""
_FIRST = 4
_GROUPS = 4


@dataclass(frozen=True)
class GeneratorConfig:
    """``words``: that it knows. ``doublings``: from 4^3 points on, one number of channels for each.

    ``width``: of the style. ``gains``: what the last layer's v and colours are multiplied by, so that one learning rate
    does for densities, which have far to go, and for all else. ``blob``, ``samples``: of the voxels.
    """

    words: tuple[str, ...]
    channels: tuple[int, ...] = (48, 32, 16)
    width: int = 64
    gains: tuple[float, float] = (8.0, 4.0)
    blob: Blob = field(default_factory=lambda: Blob(4.0, 0.45))
    samples: int = 32

    def __post_init__(self) -> None:
        check_range("width", self.width, 1)
        check_range("samples", self.samples, 1)
        if not self.words or len(set(self.words)) != len(self.words):
            raise InputError(f"a generator knows one or more words, all different, but has {self.words}.")
        if not self.channels or any(number < 1 or number % _GROUPS for number in self.channels):
            raise InputError(
                f"channels must be multiples of {_GROUPS}, one for each doubling, but are {self.channels}."
            )

    @property
    def resolution(self) -> int:
        """Points a side of the voxels."""
        return _FIRST * 2 ** len(self.channels)

    @property
    def volume(self) -> VoxelConfig:
        """Of the voxels that it makes."""
        return VoxelConfig(self.resolution, blob=self.blob, march=March(self.samples, self.resolution - 1))


class _Rendering(nn.Module):
    """Voxels whose numbers can be given from outside, with their gradients."""

    def __init__(self, voxels: Voxels) -> None:
        super().__init__()
        self.voxels = voxels.requires_grad_(False)

    def forward(self, cameras: Cameras, background: Tensor, noise: Noise | None) -> Rendered:
        return self.voxels.render(cameras, background, noise=noise)


class _Doubling(nn.Module):
    """Twice as many points a side, a convolution, and the style."""

    def __init__(self, before: int, channels: int, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(before, channels, 3, padding=1, padding_mode="replicate")
        self.norm = nn.GroupNorm(_GROUPS, channels, affine=False)
        self.style = nn.Linear(width, 2 * channels)

    def forward(self, h: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style)[..., None, None, None].chunk(2, 1)
        h = interpolate(h, scale_factor=2.0, mode="trilinear", align_corners=False)
        return silu((1 + scale) * self.norm(self.convolution(h)) + shift)


class Generator(nn.Module):
    """Words to voxels. ``seed``: of its first weights."""

    def __init__(self, config: GeneratorConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        first, width = config.channels[0], config.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.table = nn.Embedding(len(config.words), width)
            self.style = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
            self.first = nn.Linear(width, first * _FIRST**3)
            pairs = zip((first, *config.channels), config.channels, strict=False)
            self.doublings = nn.ModuleList(_Doubling(before, after, width) for before, after in pairs)
            self.last = nn.Conv3d(config.channels[-1], 4, 1)
        for weight in self.last.parameters():
            nn.init.zeros_(weight)
        self.rendering = _Rendering(Voxels(config.volume))

    def forward(self, labels: Tensor) -> Tensor:
        """v and colour features of words by their numbers int64 ``[k]``: ``[k, 4, z, y, x]``."""
        style = self.style(self.table(labels))
        h = self.first(style).unflatten(1, (-1, _FIRST, _FIRST, _FIRST))
        for doubling in self.doublings:
            h = doubling(h, style)
        shape, colour = self.config.gains
        v, features = self.last(h).split((1, 3), 1)
        start = self.rendering.voxels
        return torch.cat((start.raw + shape * v, start.colour + colour * features), 1)

    def render(self, lattice: Tensor, cameras: Cameras, background: Tensor, noise: Noise | None = None) -> Rendered:
        """What cameras see of one word's lattice ``[4, z, y, x]``, differentiable in it; ``noise`` as of a volume."""
        numbers = {"voxels.raw": lattice[0], "voxels.colour": lattice[1:]}
        return functional_call(self.rendering, numbers, (cameras, background, noise))

    @torch.no_grad()
    def scene(self, word: str) -> Voxels:
        """The voxels of a word, on their own. Raises `InputError` for a word that it does not know."""
        check_option("the word", word, self.config.words)
        device = self.table.weight.device
        (lattice,) = self(torch.tensor([self.config.words.index(word)], device=device))
        made = Voxels(self.config.volume).to(device)
        made.raw.copy_(lattice[0])
        made.colour.copy_(lattice[1:])
        return made


def save_generator(path: str | os.PathLike[str], generator: Generator, card: Mapping[str, Any] | None = None) -> None:
    """Write a generator's folder, whole or not at all; ``card``: how it was made, if that is told."""
    save_model(path, generator, KIND, asdict(generator.config), card=card)


def generator_at(path: Path) -> Path | None:
    """The folder of a generator: this one, or the one within it where it is that of a training; None if neither is."""
    for folder in (settled(path), settled(path / MODEL)):
        if (folder / CONFIG).is_file() and read_json(folder / CONFIG).get("format") == KIND:
            return folder
    return None


def load_generator(path: str | os.PathLike[str]) -> Generator:
    """Read what `save_generator` wrote, to the CPU; `InputError` for anything else."""
    weights, config = load_model(Path(path), KIND)
    try:
        generator = Generator(_config(config))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not describe a generator ({error}).") from error
    load_weights(generator, weights, path)
    return generator


def _config(values: Mapping[str, Any]) -> GeneratorConfig:
    parts: dict[str, Any] = {name: as_tuples(value) for name, value in values.items()}
    parts["blob"] = Blob(**parts["blob"])
    return GeneratorConfig(**parts)
