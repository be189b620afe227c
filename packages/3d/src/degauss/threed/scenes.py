r"""What a run learns, by name: a volume of voxels, a hash grid, or Gaussians; how each starts, is kept and is read.

A kept scene is a model's directory of `degauss.core.checkpoint` that says which of the three it is. Gaussians change
their number while they learn, so that their file, and not a configuration, says how many there are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from degauss.core.checkpoint import CONFIG, load_model, load_weights, save_model
from degauss.core.errors import InputError
from degauss.core.files import read_json, settled
from degauss.core.noise import Noise
from degauss.threed.gaussians import Gaussians
from degauss.threed.hashgrid import HashConfig, HashGrid
from degauss.threed.projection import Cloud
from degauss.threed.volume import Blob, March
from degauss.threed.voxels import VoxelConfig, Voxels

Kind = Literal["volume", "hashgrid", "gaussians"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Scene = Voxels | HashGrid | Gaussians

_FORMAT = "degauss.threed/"


@dataclass(frozen=True)
class BallConfig:
    """Grey Gaussians to start from: ``count`` of them in a ball of ``radius``, world units, each of ``opacity``.

    ``degree``: of the colour's spherical harmonics, 0 to 3; 0 is a colour that is the same from all sides.
    """

    count: int = 2000
    radius: float = 0.35
    opacity: float = 0.1
    degree: int = 0


@dataclass(frozen=True)
class SceneConfig:
    """Which scene, and how each kind starts; the other two tables are not read."""

    kind: Kind = "volume"
    volume: VoxelConfig = field(default_factory=VoxelConfig)
    hashgrid: HashConfig = field(default_factory=HashConfig)
    gaussians: BallConfig = field(default_factory=BallConfig)


def start(config: SceneConfig, seed: int) -> Scene:
    """The scene before its first step, a grey ball, on the CPU."""
    if config.kind == "volume":
        return Voxels(config.volume)
    if config.kind == "hashgrid":
        return HashGrid(config.hashgrid, seed)
    ball = config.gaussians
    return Gaussians.ball(Noise(seed, (0,)), ball.count, ball.radius, ball.opacity, ball.degree)


def kind_of(scene: Scene) -> Kind:
    """The name of a scene's kind."""
    if isinstance(scene, Gaussians):
        return "gaussians"
    return "volume" if isinstance(scene, Voxels) else "hashgrid"


def save_scene(path: str | os.PathLike[str], scene: Scene) -> None:
    """Write a scene's directory in one piece. Raises `InputError` if a number is not finite."""
    config = {} if isinstance(scene, Gaussians) else asdict(scene.config)
    save_model(path, scene, f"{_FORMAT}{kind_of(scene)}", config)


def load_scene(path: str | os.PathLike[str], kind: Kind | None = None) -> Scene:
    """Read what `save_scene` wrote, to the CPU.

    Raises `InputError` if it is missing, damaged, no scene, or not of the ``kind`` that is asked for.
    """
    folder = settled(path)
    if not folder.is_dir():
        raise InputError(f"{path} is no scene: expected the directory that a run keeps.")
    said = str(read_json(folder / CONFIG).get("format"))
    found: Kind | None = next((known for known in KINDS if said == f"{_FORMAT}{known}"), None)
    if found is None:
        raise InputError(f"{folder / CONFIG} holds {said!r}, but a scene is one of {', '.join(KINDS)}.")
    if kind is not None and found != kind:
        raise InputError(f"{path} is a checkpoint of the representation {found}, but {kind} was expected.")
    weights, config = load_model(folder, said)
    try:
        scene = _built(found, weights, config)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder} does not describe a scene of the kind {found} ({error}).") from error
    load_weights(scene, weights, folder)
    return scene


def fingerprint_of(module: nn.Module) -> str:
    """SHA-256 (hex) of a module's numbers, names included."""
    import hashlib

    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(cast("Tensor", value).detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def scene_path(path: Path) -> Path:
    """The scene within a run's directory; a scene's own directory stays what it is."""
    inside = settled(path / "checkpoint") / "scene"
    return inside if inside.is_dir() else path


def _built(kind: Kind, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Scene:
    if kind == "gaussians":
        return Gaussians(Cloud(*(weights[name] for name in Cloud._fields)))
    parts: dict[str, Any] = {**config, "blob": Blob(**config["blob"]), "march": March(**config["march"])}
    return Voxels(VoxelConfig(**parts)) if kind == "volume" else HashGrid(HashConfig(**parts))
