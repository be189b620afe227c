"""The scene, the priors and the scores that the claims of distillation share.

Everything is small: 32 x 32 pixels, 32^3 voxels, two views a step. The object is known, so that whatever comes out is
measured. Settings that no paper gives (guidance 3, voxels, learning rates) were tried on a chair, before any result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from degauss.core.claims import Verdict
from degauss.core.errors import InputError
from degauss.threed.meshes import Mesh
from degauss.threed.methods import Annealing, MethodConfig, Name
from degauss.threed.prior_sources import Source, open_prior
from degauss.threed.quality import ViewScores, held_out_views, score_images
from degauss.threed.rendering import Rendered, Representation
from degauss.threed.run import Run, RunConfig
from degauss.threed.scenes import SceneConfig
from degauss.threed.shapes import shipped_mesh
from degauss.threed.volume import Blob, March
from degauss.threed.voxels import VoxelConfig
from degauss.threed.watching import look

SIZE, VIEWS = 32, 2
GUIDANCE = 3.0
MISSING = 0.5
"""The Chamfer distance of a scene without a surface, half the side of the cube."""


def shipped(name: str = "embedded") -> Source:
    """The prior that ships under a name: "embedded", or "twin", which sees colours and is not told the view.

    Raises `InputError` where it does not ship.
    """
    torch.set_num_threads(1)
    try:
        return open_prior(name, SIZE)
    except InputError as error:
        raise InputError(
            f"this claim rests on the prior {name!r} of the package, which is not there: {error}"
        ) from None


@cache
def truth(word: str) -> Mesh:
    """The mesh behind a word."""
    return shipped_mesh(word)


def scene(resolution: int = SIZE) -> SceneConfig:
    """Voxels that start as a wide, faint ball, with as many samples a ray as points a side."""
    return SceneConfig("volume", VoxelConfig(resolution, blob=Blob(4.0, 0.45), march=March(resolution, resolution - 1)))


def config(
    source: Source,
    word: str,
    method: Name,
    seed: int,
    steps: int,
    guidance: float = GUIDANCE,
    annealing: Annealing = "mvdream",
    perp_neg: float = 0.0,
) -> RunConfig:
    """The run of a word by a method."""
    told = MethodConfig(method, guidance, perp_neg=perp_neg, annealing=annealing)
    return RunConfig(word, told, scene(source.prior.size), steps, VIEWS, source.prior.size, source.orbits, seed=seed)


def spent(run: Run, budget: int) -> Run:
    """The run, gone on until so many evaluations of the prior's network are spent."""
    while run.evaluations < budget:
        run.advance()
    return run


@cache
def pictures(word: str) -> Rendered:
    """The true mesh from views that no training saw."""
    return look(truth(word), held_out_views(2 * SIZE))


def scores(found: Representation, *words: str) -> list[ViewScores]:
    """Beside the true mesh of each word, from views that no training saw."""
    seen = look(found, held_out_views(2 * SIZE))
    return [ViewScores(*score_images(seen, pictures(word)).nanmean(0).tolist()) for word in words]


def gathered(found: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """The figures of each seed as one list a figure."""
    return {name: [values[name] for values in found] for name in found[0]}


def verdict(parts: Sequence[bool], controls: Sequence[bool] = ()) -> Verdict:
    """All parts true: holds; none: does not hold; else partly, as when a control did not fail as it must."""
    if not any(parts):
        return "does not hold"
    return "holds" if all(parts) and all(controls) else "holds partly"


def note(source: Source) -> str:
    """Which prior it was."""
    return f"The prior is the shipped one named {source.name}, sha256 {source.sha256}."
