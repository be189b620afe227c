"""Which prior a command asks for: one that ships, a folder of one's own, or the exact one of a known mesh.

``embedded`` is the prior that ships; any other word is the folder of one that 'train-prior' wrote. ``oracle:MESH`` is
the posterior mean over the renders of a mesh, a file or the name of a public one; it has learned nothing, so that it
shows what a method and a scene can do at best.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from degauss.core.errors import InputError
from degauss.core.files import fingerprint, read_json
from degauss.core.places import data_root
from degauss.core.schedule import Cosine
from degauss.threed.cameras import Cameras, Orbits
from degauss.threed.datasets import ENTRIES, read_known
from degauss.threed.embedded_prior import EmbeddedPrior, find_prior, shipped_priors
from degauss.threed.mesh_files import read_mesh
from degauss.threed.meshes import Mesh
from degauss.threed.oracle_views import OracleViews
from degauss.threed.prior import Prior
from degauss.threed.shapes import SHIPPED, shipped_mesh

ORACLE = "oracle:"

_TURNS, _LOWEST, _HIGHEST, _RISES = 36, -15.0, 60.0, 10
_WIDTH, _STD = 5.0, 0.05


@dataclass(frozen=True, eq=False)
class Source:
    """A prior and where it is from.

    ``sha256``: of its files. ``licence``: one line on its terms. ``orbits``: where its pictures are from. ``told``:
    whether it is told views. ``truth``: the mesh behind its pictures where that is known: of an oracle, and, `about` a
    word, of a prior that ships.
    """

    prior: Prior
    name: str
    sha256: str
    licence: str
    orbits: Orbits
    told: bool
    truth: Mesh | None = None

    @property
    def exact(self) -> bool:
        """Whether its answers are those of the truth itself, which guidance would only bend."""
        return isinstance(self.prior, OracleViews)

    def about(self, prompt: str, device: torch.device | str = "cpu") -> Source:
        """The same, with the very mesh that a prior which ships was shown as this word.

        Without it where its file is not at hand: then nothing is measured.
        """
        if self.truth is not None or self.name not in shipped_priors() or prompt not in SHIPPED:
            return self
        with suppress(InputError):
            return replace(self, truth=shipped_mesh(prompt).to(device))
        return self

    def facts(self) -> dict[str, str]:
        """What provenance says of it."""
        return {"prior": self.name, "prior_sha256": self.sha256, "licence": self.licence}


def open_prior(name: str, size: int = 32, device: torch.device | str = "cpu") -> Source:
    """The prior of a name, on a device; ``size``: pixels of an oracle's images, others have their own.

    Raises `InputError` where there is none.
    """
    if name.startswith(ORACLE):
        return _oracle(name.removeprefix(ORACLE), size, device)
    path = find_prior(name)
    prior = EmbeddedPrior.load(path).to(device)
    config = prior.config
    return Source(prior, name, fingerprint(path), _licence(path), config.orbits, config.views)


def _oracle(mesh: str, size: int, device: torch.device | str) -> Source:
    if mesh in ENTRIES:
        entry = ENTRIES[mesh]
        truth, file = read_known(mesh).to(device), data_root() / "meshes" / entry.file
        word, licence = mesh, f"{mesh}: {entry.author}, {entry.licence}"
    else:
        file = Path(mesh)
        if not file.is_file():
            raise InputError(
                f"there is no mesh {mesh!r}: expected a file, or one of {', '.join(ENTRIES)}, as in oracle:spot."
            )
        truth, word, licence = read_mesh(file).fitted().to(device), file.stem, f"{file.name}: on the terms of its owner"
    orbits = Orbits(radius=(2.2, 2.2), fov=(40.0, 40.0))
    prior = OracleViews.of(Cosine(), {word: truth}, oracle_cameras(size, device), 6, _WIDTH, _STD)
    return Source(prior, f"{ORACLE}{mesh}", fingerprint(file), licence, orbits, True, truth)


def oracle_cameras(size: int, device: torch.device | str = "cpu") -> Cameras:
    """Where an oracle's images are from: every 10 degrees around, from 15 below to 60 above."""
    azimuth = torch.arange(_TURNS, dtype=torch.float64, device=device) * (360 / _TURNS)
    elevation = torch.linspace(_LOWEST, _HIGHEST, _RISES, dtype=torch.float64, device=device)
    return Cameras.orbit(azimuth.repeat(_RISES), elevation.repeat_interleave(_TURNS), size=size)


def _licence(path: Path) -> str:
    """One line on the terms of a prior, from its card."""
    card = path / "card.json"
    if not card.is_file():
        return "no terms stated"
    told: Any = read_json(card)
    licence = told.get("licence", told.get("license", "no terms stated"))
    if isinstance(licence, dict):
        licence = "; ".join(f"{key}: {value}" for key, value in cast("dict[str, Any]", licence).items())
    return str(licence)
