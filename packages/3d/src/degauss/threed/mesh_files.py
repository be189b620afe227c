"""Meshes in files: GLB, OBJ with its material and texture, PLY. What is written opens in Blender, MeshLab and trimesh.

Reading goes through trimesh: scenes become one mesh in world coordinates (several textures are packed into one), and
polygons become triangles. Files keep textures and OBJ colours as displayed (sRGB), but glTF keeps the colours of
vertices and materials linear in light; they are converted here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError, check_option
from degauss.core.files import atomic_path
from degauss.threed.meshes import Mesh
from degauss.threed.rasterise import sample_texture

if TYPE_CHECKING:
    from PIL.Image import Image
    from trimesh import Trimesh

READABLE = (".glb", ".gltf", ".obj", ".ply")
WRITABLE = (".glb", ".obj", ".ply")
_IMAGE_MODES = ("RGB", "RGBA", "L", "P")


# --- reading ------------------------------------------------------------------------------------------------


def read_mesh(path: str | os.PathLike[str], texture: str | os.PathLike[str] | None = None) -> Mesh:
    """Read a mesh, as it lies in the file.

    ``texture``: an image to use for the file's texture coordinates, instead of what its material names.
    Raises `InputError` if the file is missing, damaged, empty, not finite, has a face without its vertices, or names a
    texture or material that is not there; or if an image has not 8 bits a channel.
    """
    path = Path(path)
    check_option(f"{path}: the suffix of a mesh", path.suffix.lower(), READABLE)
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    textured = texture is None and "texture" in _companions(path)
    mesh = _converted(_loaded(path, skip_materials=texture is not None), path, textured)
    if texture is not None:
        if mesh.uv is None:
            raise InputError(f"{path} has no texture coordinates, so the texture {texture} cannot be put on it.")
        mesh = Mesh(mesh.vertices, mesh.faces, mesh.uv, read_texture(texture), None, mesh.normals)
    mesh.check(str(path))
    return mesh


def read_texture(path: str | os.PathLike[str]) -> Tensor:
    """An image as RGB ``[height, width, 3]`` in [0, 1]; an alpha channel is left out.

    Raises `InputError` if the file is missing, is no image, or has not 8 bits a channel.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _pixels(image, path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}).") from None


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a GLB says of its making, in `asset.extras`; empty where it says nothing."""
    header = _gltf_header(Path(path))
    extras = cast("dict[str, Any]", header.get("asset", {})).get("extras", {})
    return cast("dict[str, Any]", extras) if isinstance(extras, dict) else {}


def _loaded(path: Path, skip_materials: bool) -> Trimesh:
    """One trimesh of all that the file holds."""
    import trimesh

    try:
        scene = trimesh.load_scene(path, process=False, skip_materials=skip_materials)
        parts = [(scene.graph[node], node) for node in scene.graph.nodes_geometry]
        solid = [part for part in parts if isinstance(scene.geometry[part[0][1]], trimesh.Trimesh)]
        if not solid:
            held = "points but no faces" if parts else "no vertices and no faces"
            raise InputError(f"{path}: the mesh is empty: the file holds {held}.")
        if len(solid) > 1:
            return scene.to_mesh()
        (place, name), _ = solid[0]
        one = cast("Trimesh", scene.geometry[name])
        one.apply_transform(place)
        return one
    except InputError:
        raise
    except IndexError as error:
        raise InputError(f"{path}: a face asks for a vertex that is not there ({error}).") from None
    except Exception as error:  # whatever a reader of damaged files can meet
        raise InputError(f"{path} cannot be read as a mesh ({error}).") from None


def _converted(loaded: Trimesh, path: Path, textured: bool) -> Mesh:
    def tensor(values: Any) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.float32))

    vertices, faces = tensor(loaded.vertices), torch.from_numpy(np.array(loaded.faces, dtype=np.int64))
    visual = cast("Any", loaded.visual)
    uv, texture, colours = None, None, None
    linear = path.suffix.lower() in (".glb", ".gltf")
    if visual.kind == "texture" and visual.uv is not None and len(visual.uv) == len(vertices):
        uv = tensor(visual.uv)[:, :2]
        image = getattr(visual.material, "baseColorTexture", None) or getattr(visual.material, "image", None)
        # trimesh gives a material without a texture a grey one.
        texture = _pixels(image, path) if image is not None and textured else None
    stored = _vertex_colours(visual)
    if stored is not None and texture is None:
        colours = to_display(stored) if linear else stored
    factor = getattr(getattr(visual, "material", None), "baseColorFactor", None)
    tint = None if factor is None else tensor(factor)[:3] / 255
    if tint is not None and bool((tint < 1).any()):
        if texture is not None:
            texture = to_display(to_linear(texture) * tint)
        else:
            colours = to_display(tint if colours is None else to_linear(colours) * tint).expand_as(vertices).clone()
    # A normal that trimesh worked out itself would not be smooth across seams: only the file's own count.
    has_normals = "vertex_normals" in cast("Any", loaded)._cache.cache
    normals = torch.nn.functional.normalize(tensor(loaded.vertex_normals), dim=-1) if has_normals else None
    return Mesh(vertices, faces, uv, texture, colours, normals)


def _vertex_colours(visual: Any) -> Tensor | None:
    """RGB in [0, 1] as the file has it; beside a material, trimesh keeps the file's own numbers."""
    values = visual.vertex_colors if visual.kind == "vertex" else getattr(visual, "vertex_attributes", {}).get("color")
    if values is None:
        return None
    stored = np.asarray(values)[:, :3]
    scale = np.iinfo(stored.dtype).max if stored.dtype.kind == "u" else 1
    return torch.from_numpy(np.ascontiguousarray(stored / scale, dtype=np.float32))


def _pixels(image: Image, name: str | os.PathLike[str]) -> Tensor:
    if image.mode not in _IMAGE_MODES:
        raise InputError(
            f"{name}: the image has mode {image.mode!r}, but 8 bits a channel are needed: {', '.join(_IMAGE_MODES)}."
        )
    return torch.from_numpy(np.array(image.convert("RGB"))).float() / 255


def _companions(path: Path) -> set[str]:
    """What ``path`` needs beside its geometry: "material", "texture", "buffer".

    Raises `InputError` for a file that it names and that is not there: trimesh would go on without it.
    """
    of = {".obj": _obj_companions, ".ply": _ply_companions}.get(path.suffix.lower(), _gltf_companions)
    kinds: set[str] = set()
    for kind, name in of(path):
        if name is not None and not (path.parent / name).is_file():
            raise InputError(f"{path} names the {kind} {name}, which is not beside it.")
        kinds.add(kind)
    return kinds


_Companions = Iterator[tuple[str, str | None]]
"""The kind of each companion, and the name of its file; None if it is inside."""


def _obj_companions(path: Path) -> _Companions:
    lines = _text(path)
    if not any(line.startswith("vt ") for line in lines):
        return  # a material can then only tint it
    for library in (line.split(maxsplit=1)[1].strip() for line in lines if line.startswith("mtllib ")):
        yield "material", library
        for line in _text(path.parent / library):
            words = line.split(maxsplit=1)
            if len(words) == 2 and words[0].lower() == "map_kd":
                name = words[1].strip()
                yield "texture", name.split()[-1] if name.startswith("-") else name  # options go before the name


def _ply_companions(path: Path) -> _Companions:
    with path.open("rb") as file:
        for line in file:
            if line.startswith(b"comment TextureFile "):
                yield "texture", line.decode(errors="replace").split(maxsplit=2)[2].strip()
            if line.startswith(b"end_header"):
                return


def _gltf_companions(path: Path) -> _Companions:
    from urllib.parse import unquote

    header = _gltf_header(path)
    for kind, parts in (("texture", "images"), ("buffer", "buffers")):
        for part in cast("list[dict[str, Any]]", header.get(parts, [])):
            uri = part.get("uri")
            yield kind, unquote(uri) if isinstance(uri, str) and not uri.startswith("data:") else None


def _text(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _gltf_header(path: Path) -> dict[str, Any]:
    """The JSON of a glTF file, or of a GLB's first chunk (glTF 2.0, section 4.4)."""
    try:
        data = path.read_bytes()
        if data[:4] == b"glTF":
            data = data[20 : 20 + int.from_bytes(data[12:16], "little")]
        header = json.loads(data)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as glTF ({error}).") from None
    if not isinstance(header, dict):
        raise InputError(f"{path} cannot be read as glTF: its header is no JSON object.")
    return cast("dict[str, Any]", header)


# --- writing ------------------------------------------------------------------------------------------------


def write_mesh(path: str | os.PathLike[str], mesh: Mesh, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a mesh as GLB, OBJ or PLY, by the suffix, whole or not at all.

    ``provenance``: of its making, what JSON can hold; a GLB keeps it in `asset.extras`, the others in a comment.
    An OBJ has its material and texture beside it, named after it. PLY has no texture: the vertices get its colours.
    Raises `InputError` for another suffix and for what `Mesh.check` refuses.
    """
    path = Path(path)
    write = {".glb": _write_glb, ".obj": _write_obj, ".ply": _write_ply}
    suffix = check_option(f"{path}: the suffix of a mesh", path.suffix.lower(), WRITABLE)
    mesh.check(str(path))
    write[suffix](path, mesh.to("cpu"), dict(provenance or {}))


def _numbers(part: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    return part.detach().cpu().numpy()


def _bytes(colours: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return _numbers((colours.clamp(0, 1) * 255).round().to(torch.uint8))


def _image(texture: Tensor) -> Image:
    from PIL import Image

    return Image.fromarray(_bytes(texture))


def _normals(mesh: Mesh) -> Tensor:
    return mesh.smooth_normals if mesh.normals is None else mesh.normals


def _write_glb(path: Path, mesh: Mesh, provenance: dict[str, Any]) -> None:
    import trimesh
    from trimesh.exchange.gltf import export_glb
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    colour = None if mesh.texture is None else _image(mesh.texture)
    material = PBRMaterial(name="surface", baseColorTexture=colour, metallicFactor=0.0, roughnessFactor=1.0)
    attributes: dict[str, Any] = {}
    if mesh.colours is not None and colour is None:
        attributes["COLOR_0"] = _numbers(to_linear(mesh.colours))
    made = trimesh.Trimesh(
        _numbers(mesh.vertices),
        _numbers(mesh.faces),
        vertex_normals=_numbers(_normals(mesh)),
        vertex_attributes=attributes,
        visual=TextureVisuals(None if mesh.uv is None else _numbers(mesh.uv), material),
        process=False,
    )

    def finished(tree: dict[str, Any]) -> None:
        extras = {"extras": provenance} if provenance else {}
        tree["asset"] = {"version": "2.0", "generator": "degauss-3d", **extras}
        attributes = tree["meshes"][0]["primitives"][0]["attributes"]
        if "_COLOR_0" in attributes:  # trimesh takes it for an attribute of ours, and would write 8 bits itself
            attributes["COLOR_0"] = attributes.pop("_COLOR_0")

    json.dumps(provenance, allow_nan=False)  # before anything is written
    data = export_glb(made, include_normals=True, tree_postprocessor=finished)
    with atomic_path(path) as part:
        part.write_bytes(data)


def _write_obj(path: Path, mesh: Mesh, provenance: dict[str, Any]) -> None:
    """Places are written once, whatever the seams: a closed surface stays closed."""
    places, place = mesh.welded.unique(return_inverse=True)
    columns = [place + 1, None, torch.arange(len(place)) + 1]
    lines = [f"# degauss-3d {json.dumps(provenance, allow_nan=False)}" if provenance else "# degauss-3d"]
    if mesh.texture is not None:
        lines += [f"mtllib {_beside(path, '.mtl').name}", "usemtl surface"]
    shown = None if mesh.texture is not None or mesh.colours is None else mesh.colours[places]
    coordinates = mesh.vertices[places] if shown is None else torch.cat((mesh.vertices[places], shown), -1)
    lines += _rows("v", coordinates)
    if mesh.uv is not None:
        columns[1] = torch.arange(len(place)) + 1
        lines += _rows("vt", mesh.uv)
    lines += _rows("vn", _normals(mesh))
    corners = ["" if column is None else column[mesh.faces].tolist() for column in columns]
    for row in range(len(mesh.faces)):
        words = ("/".join(str(part[row][corner]) if part else "" for part in corners) for corner in range(3))
        lines.append("f " + " ".join(words))
    if mesh.texture is not None:
        image = _beside(path, ".png")
        with atomic_path(image) as part:
            _image(mesh.texture).save(part, format="png")
        with atomic_path(_beside(path, ".mtl")) as part:
            part.write_text(f"newmtl surface\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nmap_Kd {image.name}\n", encoding="utf-8")
    with atomic_path(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _beside(path: Path, suffix: str) -> Path:
    """A name that an OBJ can spell: words are separated by blanks there."""
    return path.with_name("_".join(path.stem.split()) + suffix)


def _rows(word: str, values: Tensor) -> list[str]:
    return [" ".join((word, *(f"{value:.9g}" for value in row))) for row in values.tolist()]


def _write_ply(path: Path, mesh: Mesh, provenance: dict[str, Any]) -> None:
    import trimesh
    from trimesh.exchange.ply import export_ply

    colours = mesh.colours
    if mesh.texture is not None and mesh.uv is not None:
        colours = sample_texture(mesh.texture, mesh.uv)
    made = trimesh.Trimesh(
        _numbers(mesh.vertices),
        _numbers(mesh.faces),
        vertex_normals=_numbers(_normals(mesh)),
        vertex_colors=None if colours is None else _bytes(colours),
        process=False,
    )
    data = export_ply(made, vertex_normal=True)
    if provenance:
        comment = f"comment degauss-3d {json.dumps(provenance, allow_nan=False)}\n".encode()
        head, element, rest = data.partition(b"element ")
        data = head + comment + element + rest
    with atomic_path(path) as part:
        part.write_bytes(data)


# --- colour -------------------------------------------------------------------------------------------------


def to_linear(colours: Tensor) -> Tensor:
    """Colours as displayed (sRGB, in [0, 1]) as amounts of light (IEC 61966-2-1)."""
    return torch.where(colours <= 0.04045, colours / 12.92, ((colours.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def to_display(light: Tensor) -> Tensor:
    """The inverse of `to_linear`."""
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)
