"""What can be looked at, from a path: a run's folder, a kept scene, a generator's word, splats (.ply) or a mesh."""

from __future__ import annotations

from pathlib import Path

import torch

from degauss.core.errors import InputError
from degauss.threed.gaussians import Gaussians
from degauss.threed.generator import generator_at, load_generator
from degauss.threed.mesh_files import READABLE, read_mesh
from degauss.threed.meshes import Mesh
from degauss.threed.scenes import Scene, load_scene, scene_path
from degauss.threed.splats import read_splats

_SPLATS = b"property float opacity"


def open_scene(path: Path, word: str | None = None) -> Scene:
    """The scene of a run's folder, splats, or the scene of a generator's word; `InputError` for anything else."""
    generator = generator_at(path)
    if generator is not None:
        return _spoken(generator, word)
    if word is not None:
        raise InputError(f"{path} is not the folder of a generator, so it has no scene of the word {word!r}.")
    if path.is_dir():
        return load_scene(scene_path(path))
    if path.is_file() and _has_splats(path):
        return Gaussians(read_splats(path))
    if not path.exists():
        raise InputError(f"{path} does not exist; expected the folder of a run, or splats (.ply).")
    raise InputError(f"{path} is neither the folder of a run nor splats (.ply).")


def open_any(path: Path, device: torch.device | str = "cpu", word: str | None = None) -> Scene | Mesh:
    """Anything that can be rendered; meshes are fitted to the unit cube. `InputError` for what is none."""
    if word is not None or path.is_dir() or not path.is_file() or _has_splats(path):
        return open_scene(path, word).to(device)
    if path.suffix.lower() not in READABLE:
        raise InputError(f"{path}: expected a mesh ({', '.join(READABLE)}), splats (.ply), or the folder of a run.")
    return read_mesh(path).fitted().to(device)


def _spoken(folder: Path, word: str | None) -> Scene:
    generator = load_generator(folder)
    if word is None:
        known = ", ".join(generator.config.words)
        raise InputError(f"{folder} is a generator: say by --word whose scene is meant, one of {known}.")
    return generator.scene(word)


def _has_splats(path: Path) -> bool:
    """Whether this is a PLY of Gaussians and not of triangles."""
    if path.suffix.lower() != ".ply":
        return False
    with path.open("rb") as file:
        return _SPLATS in file.read(1 << 14).split(b"end_header")[0]
