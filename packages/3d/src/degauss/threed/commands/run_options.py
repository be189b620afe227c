"""Options that `generate`, `lab` and `batch` share, the run that they ask for, and who looks on."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from degauss.core.errors import InputError, check_range
from degauss.core.options import device_of

if TYPE_CHECKING:
    from degauss.threed.densify import DensifyConfig
    from degauss.threed.exporting import MeshConfig
    from degauss.threed.prior_sources import Source
    from degauss.threed.run import RunConfig
    from degauss.threed.scenes import SceneConfig
    from degauss.threed.viewer import Live

MethodName = Literal["sds", "asd", "vsd", "ism", "tsm", "stable-dreamer"]

_SHAPE = 0.5
"""The share of StableDreamer's first stage."""
_SEEN = 192
"""Pixels a side of what the page shows."""
_STEPS = {"volume": 400, "hashgrid": 400, "gaussians": 500}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is distilled, from what, and how long."""

    representation: Literal["volume", "gaussians", "hashgrid"] = "volume"
    """What is learned: voxels, 3D Gaussians, or a hash grid."""
    prior: str = "embedded"
    """embedded: the one that ships; a folder: of one that 'train-prior' wrote; oracle:MESH: the exact one of a mesh
    file, or of a public mesh such as oracle:spot."""
    steps: int | None = None
    """Steps of Adam; 400, for Gaussians 500, unless given."""
    views: int = 4
    """Views rendered at each step."""
    size: int = 32
    """Pixels a side of the renders during training, and of an oracle's images."""
    seed: int = 0
    """Everything random follows from it."""
    guidance: float | None = None
    """Classifier-free guidance: 1 is the prompt alone, and the default for an oracle; else the default is 3."""
    rescale: float = 0.0
    """From 0 to 1: brings guided images back to the contrast of those without guidance."""
    perp_neg: float = 0.0
    """Weight of perpendicular negative prompts, against faces on every side."""
    annealing: Literal["paper", "mvdream", "falling", "none"] = "mvdream"
    """How the noise at which the prior is asked falls over the run: as in the method's paper, or in MVDream's
    configuration, or one level a step."""
    weighting: Literal["variance", "ratio", "uniform"] = "ratio"
    """Weight of the gradient over noise levels; ratio makes it a distance of images."""
    sparsity: float = 0.0
    """Weight against fog; a mean over pixels beside a loss that is a sum, so that it takes about 100 to be felt."""
    opacity: float = 0.0
    """Weight for surfaces that are there or not."""
    tv: float = 0.0
    """Weight against differences between neighbouring pixels."""
    clip: float = 0.0
    """The largest gradient of a pixel's colour, its direction kept; Dreamer XL's TSM takes 0.05. 0 for none."""
    rate: float = 1.0
    """All learning rates, times this."""
    resolution: int = 48
    """Voxels a side."""
    gaussians: int = 2000
    """How many Gaussians to start with."""
    densify: bool = True
    """Let Gaussians become more where detail is missing."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def source(self) -> Source:
        """The prior; `InputError` where there is none."""
        from degauss.threed.prior_sources import open_prior

        return open_prior(self.prior, self.size, device_of(self.device))

    def run_config(self, prompt: str, method: MethodName, source: Source) -> RunConfig:
        """The run of a prompt by a method; `InputError` for numbers that cannot be."""
        from degauss.threed.methods import MethodConfig
        from degauss.threed.run import Rates, Regularisers, RunConfig

        steps = _STEPS[self.representation] if self.steps is None else self.steps
        guidance = self.guidance if self.guidance is not None else 1.0 if source.exact else 3.0
        staged = method == "stable-dreamer"
        if staged and self.annealing != "mvdream":
            raise InputError("stable-dreamer has times of its own: leave --annealing out.")
        return RunConfig(
            prompt,
            MethodConfig(
                "sds" if staged else method, guidance, self.rescale, self.perp_neg, self.annealing, self.weighting
            ),
            self._scene(),
            steps,
            self.views,
            self.size,
            source.orbits,
            Rates().scaled(self.rate),
            Regularisers(self.sparsity, self.opacity, self.tv),
            self._densify(steps),
            self.clip,
            _SHAPE if staged else None,
            seed=self.seed,
        )

    def _scene(self) -> SceneConfig:
        from degauss.threed.scenes import BallConfig, SceneConfig
        from degauss.threed.volume import Blob, March
        from degauss.threed.voxels import VoxelConfig

        march = March(samples=self.resolution, cells=max(1, self.resolution - 1))
        # A wide and faint ball: measured, far voxels of the usual one are too empty to learn.
        volume = VoxelConfig(resolution=self.resolution, blob=Blob(4.0, 0.45), march=march)
        return SceneConfig(self.representation, volume, gaussians=BallConfig(self.gaussians))

    def _densify(self, steps: int) -> DensifyConfig | None:
        from degauss.threed.densify import DensifyConfig

        if self.representation != "gaussians" or not self.densify:
            return None
        every = max(1, steps // 8)
        return DensifyConfig(every, steps // 2, every, steps + 1, 0.02, 0.02, most=4 * self.gaussians)


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """How a scene becomes a mesh."""

    texture: int = 512
    """Texels a side."""
    grid: int = 64
    """Points a side of the grid on which the surface is found."""
    faces: int | None = None
    """At most about so many triangles (needs the package fast-simplification)."""
    level: float | None = None
    """The density of a volume's surface; chosen from the density unless given."""
    pieces: Literal["largest", "all"] = "largest"
    """Keep the largest connected piece of the surface, or all."""

    def mesh_config(self) -> MeshConfig:
        from degauss.threed.exporting import MeshConfig

        return MeshConfig(self.grid, self.texture, self.faces, self.level, self.pieces)


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Whether a run is shown while it goes on."""

    view: bool = False
    """Show the scene in the browser while it learns, by viser; 'view' shows it afterwards."""
    port: int = 8080
    """Where the page is served, on this machine; the next one that is free."""

    def watchers(self, stack: ExitStack, device: str) -> list[Live]:
        """Who looks on, until the stack is closed: a page or nobody. `InputError` where there can be no page."""
        from degauss.threed.viewer import live

        check_range("port", self.port, 0, 65535)
        return [stack.enter_context(live(self.port, _SEEN, device))] if self.view else []


def warn(sentence: str) -> None:
    """One line on stderr."""
    print(f"Warning: {sentence}", file=sys.stderr)
