r"""Gaussian splats as PLY files, in the layout that viewers read and write (Kerbl et al. 2023).

One vertex a Gaussian, 32-bit floats: ``x y z``, ``nx ny nz`` (unused, 0), ``f_dc_0..2`` (the constant harmonic of red,
green and blue), ``f_rest_*`` (the others, all of red first, then green, then blue), ``opacity`` (a logit),
``scale_0..2`` (logarithms), ``rot_0..3`` (w, x, y, z). Coordinates are the world's, as they are.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.threed.gaussians import check
from degauss.threed.harmonics import MAX_DEGREE
from degauss.threed.projection import Cloud

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_MOST_HEADER_LINES = 1000
Array = np.ndarray[Any, np.dtype[Any]]


def write_splats(path: str | os.PathLike[str], cloud: Cloud) -> None:
    """Write Gaussians as binary PLY, in one piece. Raises `InputError` if a number is not finite."""
    check(cloud, f"refused to write {path}")
    means, log_scales, quaternions, logits, sh = (part.detach().float().cpu() for part in cloud)
    rest = sh[:, 1:].mT.flatten(1)
    normals = torch.zeros_like(means)
    table = torch.cat((means, normals, sh[:, 0], rest, logits[:, None], log_scales, quaternions), 1)
    names = _properties(rest.shape[1])
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]
    with atomic_path(path) as partial, partial.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(table.numpy().astype("<f4").tobytes())


def read_splats(path: str | os.PathLike[str]) -> Cloud:
    """Gaussians from a PLY file of this layout, float32 on the CPU; other properties are ignored.

    Binary of either byte order, or text. Quaternions are scaled to length 1. Raises `InputError` for a file that is
    missing, cut short, of another kind, or that holds numbers that are not finite.
    """
    vertices = _read_vertices(Path(path))
    found = set(vertices.dtype.names or ())
    rest = sum(name.startswith("f_rest_") for name in found)
    missing = [name for name in _properties(rest) if name not in found and name not in {"nx", "ny", "nz"}]
    if missing:
        raise InputError(f"{path} holds no Gaussian splats: its vertices have no property {missing[0]!r}.")
    degree = math.isqrt(1 + rest // 3) - 1
    if degree > MAX_DEGREE or rest != 3 * ((degree + 1) ** 2 - 1):
        raise InputError(f"{path} has {rest} f_rest properties, but expected 0, 9, 24 or 45.")

    def columns(*names: str) -> Tensor:
        flat = np.stack([vertices[name].astype(np.float32) for name in names], -1)
        return torch.from_numpy(flat)

    first = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    others = columns(*(f"f_rest_{k}" for k in range(rest))).unflatten(1, (3, -1)).mT if rest else first[:, :0]
    quaternions = columns("rot_0", "rot_1", "rot_2", "rot_3")
    cloud = Cloud(
        columns("x", "y", "z"),
        columns("scale_0", "scale_1", "scale_2"),
        quaternions,
        columns("opacity")[:, 0],
        torch.cat((first, others), 1),
    )
    check(cloud, str(path))
    length = quaternions.norm(dim=-1, keepdim=True)
    if bool((length == 0).any()):
        raise InputError(f"{path}: a quaternion (rot_0 to rot_3) is 0, which is no rotation.")
    return cloud._replace(quaternions=quaternions / length)


def _properties(rest: int) -> list[str]:
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{k}" for k in range(rest))]
    return [*names, "opacity", *(f"scale_{k}" for k in range(3)), *(f"rot_{k}" for k in range(4))]


def _read_vertices(path: Path) -> Array:
    """The vertices of a PLY file, a structured array; they must be its first element."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    lines = _header(path, content)
    body = content[sum(len(line) + 1 for line in lines) :]
    words = [line.decode("ascii", "replace").split() for line in lines]
    kind = next((line[1] for line in words if line[:1] == ["format"] and len(line) > 1), "")
    elements = [line for line in words if line[:1] == ["element"]]
    if not elements or elements[0][1:2] != ["vertex"] or len(elements[0]) != 3 or not elements[0][2].isdigit():
        raise InputError(f"{path}: expected a PLY file whose first element is its vertices.")
    count = int(elements[0][2])
    first = words.index(elements[0]) + 1
    last = words.index(elements[1]) if len(elements) > 1 else len(words)
    properties = [line for line in words[first:last] if line[:1] == ["property"]]
    if any(len(line) != 3 or line[1] not in _TYPES for line in properties):
        raise InputError(f"{path}: a vertex of Gaussian splats has numbers only, but a list or unknown type was found.")
    names = [line[2] for line in properties]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two properties of a vertex have the same name.")
    orders = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "<"}
    if kind not in orders:
        raise InputError(f"{path}: PLY files are ascii or binary, but the format is {kind!r}.")
    layout = np.dtype([(name, orders[kind] + _TYPES[line[1]]) for name, line in zip(names, properties, strict=True)])
    if kind == "ascii":
        return _from_text(path, body, count, layout)
    if len(body) < count * layout.itemsize:
        there = len(body) // max(1, layout.itemsize)
        raise InputError(f"{path} is cut short: it holds {there} of {count} vertices.")
    return np.frombuffer(body, layout, count)


def _header(path: Path, content: bytes) -> list[bytes]:
    """The lines up to ``end_header``."""
    lines = content.split(b"\n", _MOST_HEADER_LINES)[:_MOST_HEADER_LINES]
    stripped = [line.strip() for line in lines]
    if stripped[0] != b"ply" or b"end_header" not in stripped:
        raise InputError(f"{path} is no PLY file.")
    return lines[: stripped.index(b"end_header") + 1]


def _from_text(path: Path, body: bytes, count: int, layout: np.dtype[Any]) -> Array:
    rows = body.decode("ascii", "replace").split("\n")[:count]
    try:
        return np.array([tuple(float(word) for word in row.split()) for row in rows if row.strip()], layout)[:count]
    except ValueError:
        raise InputError(f"{path}: a vertex is not {len(layout.names or ())} numbers.") from None
