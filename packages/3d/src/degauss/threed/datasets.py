"""Public meshes for training, tests and claims, found under `data_root()`; nothing is downloaded.

Each is fitted to the unit cube, y up, its front at azimuth 0. Only the works of one author who gave them to the public
may leave this machine again, as renders or as weights that were trained on them: see `Entry.may_ship`.
"""

from __future__ import annotations

from dataclasses import dataclass

from degauss.core.errors import InputError, check_option
from degauss.core.places import data_root
from degauss.threed.mesh_files import read_mesh
from degauss.threed.meshes import Mesh


@dataclass(frozen=True)
class Entry:
    """One mesh: its files under `meshes`, whose it is and on what terms, and where its front is in the file.

    ``front``: the azimuth in degrees from which the file's front is seen. ``may_ship``: whether what is derived from it
    may be distributed.
    """

    file: str
    author: str
    licence: str
    texture: str | None = None
    front: float = 0.0
    may_ship: bool = False


_UNSTATED = "no terms stated: for research and tests"

ENTRIES: dict[str, Entry] = {
    "spot": Entry(
        "spot/spot_triangulated.obj",
        "Keenan Crane",
        "public domain, by its author",
        "spot/spot_texture.png",
        180.0,
        True,
    ),
    "blub": Entry("blub.obj", "Keenan Crane", "public domain, by its author", may_ship=True),
    "bunny": Entry(
        "stanford-bunny.obj",
        "Stanford University Computer Graphics Laboratory",
        "for research, with credit; not for commercial use without permission",
        front=-90.0,
    ),
    "cow": Entry("cow.obj", "Viewpoint Animation Engineering and Sun Microsystems", _UNSTATED, front=90.0),
    "teapot": Entry("teapot.obj", "Martin Newell", _UNSTATED),
    "suzanne": Entry("suzanne.obj", "Blender Foundation", _UNSTATED),
    "cheburashka": Entry("cheburashka.obj", "not known for certain (Ilya Baran)", _UNSTATED),
    "beetle": Entry("beetle.obj", "Ivan Sutherland, 1972", _UNSTATED),
    "duck": Entry("Duck.glb", "Sony Computer Entertainment", "SCEA Shared Source License 1.0", front=90.0),
}
"""All meshes by name."""


def read_known(name: str) -> Mesh:
    """One of the meshes of `ENTRIES`, fitted to the unit cube and turned to the front.

    Raises `InputError` for another name, or where its files are not under `data_root()`.
    """
    entry = ENTRIES[check_option("the mesh", name, ENTRIES)]
    folder = data_root() / "meshes"
    for file in filter(None, (entry.file, entry.texture)):
        if not (folder / file).is_file():
            raise InputError(f"{folder / file}: does not exist; expected the mesh {name} there, so set DEGAUSS_DATA.")
    texture = None if entry.texture is None else folder / entry.texture
    return read_mesh(folder / entry.file, texture).turned(-entry.front).fitted()
