"""`degauss-3d export`: a run as a file that other programs open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from degauss.core.options import check_file, device_of
from degauss.threed.commands.run_options import MeshOptions

if TYPE_CHECKING:
    from degauss.threed.scenes import Scene


@dataclass(frozen=True, kw_only=True)
class Export(MeshOptions):
    """Write the scene of a run, of a generator's word, or splats, as a textured mesh (.glb, .obj) or as splats (.ply).

    A GLB keeps in asset.extras how it was made. Where the density has no surface, the command says so and writes
    nothing. Splats are written of Gaussians, in the layout of their viewers; a mesh of Gaussians is fused from views.
    """

    what: Positional[Path]
    """The folder of a run or of a generator, or splats (.ply)."""
    word: str | None = None
    """Of a generator, as 'train-generator' writes it: whose scene."""
    out: Path = Path("object.glb")
    """The file to write."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def run(self) -> None:
        from degauss.threed.exporting import FORMATS, check_export, export
        from degauss.threed.opening import open_scene

        check_file(self.out, FORMATS)
        scene = open_scene(self.what, self.word)
        check_export(self.out, scene)
        mesh = export(self.out, scene.to(device_of(self.device)), self.mesh_config(), self._provenance(scene))
        what = "splats" if mesh is None else f"{len(mesh.faces)} faces, a texture of {self.texture} x {self.texture}"
        print(f"wrote {self.out}: {what}")

    def _provenance(self, scene: Scene) -> dict[str, Any]:
        """What the run or the generator says of itself, else what is known of the scene."""
        from degauss.core.checkpoint import CARD
        from degauss.core.cli import provenance
        from degauss.core.files import read_json
        from degauss.threed.generation import DONE
        from degauss.threed.generator import generator_at
        from degauss.threed.scenes import fingerprint_of

        made: dict[str, Any] = {"scene_sha256": fingerprint_of(scene), "versions": provenance()}
        generator = generator_at(self.what)
        if generator is not None:
            told = read_json(generator / CARD) if (generator / CARD).is_file() else {}
            return {**told, "prompt": self.word, **made}
        if (self.what / DONE).is_file():
            told = read_json(self.what / DONE)
            made |= {name: told[name] for name in ("prompt", "prior", "prior_sha256", "licence") if name in told}
            made["run"] = read_json(self.what / "resolved.json")
        return made
