"""From a word to a textured mesh and a film of it.

    python packages/3d/examples/spot_from_a_word.py [WORD] [--prior embedded] [--steps 300] [--out spot]

What `degauss-3d generate` does, as a program of your own: a prior, a grey ball of voxels, and steps that turn it into
what the prior takes for the word. Writes OUT.glb, which any viewer of meshes opens and which knows how it was made, and
OUT.mp4. About two minutes of one core. The prior that ships knows the words spot, blub, snowman, chair, mug and car;
the true meshes are known too, so that the last line says how near it came.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from degauss.core.errors import InputError
from degauss.core.options import progress
from degauss.threed.exporting import MeshConfig, export
from degauss.threed.generation import provenance_of, quality_of
from degauss.threed.methods import MethodConfig
from degauss.threed.prior_sources import open_prior
from degauss.threed.run import Run, RunConfig
from degauss.threed.scenes import SceneConfig
from degauss.threed.turntable import turntable, write_film
from degauss.threed.volume import Blob, March
from degauss.threed.voxels import VoxelConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="spot")
    parser.add_argument("--prior", default="embedded", help="or the folder of one, or oracle:MESH")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--voxels", type=int, default=48, help="a side")
    parser.add_argument("--out", type=Path, default=Path("spot"))
    arguments = parser.parse_args()

    source = open_prior(arguments.prior)
    source.prior.check(arguments.word)
    source = source.about(arguments.word)
    # A wide and faint ball: where a volume is too empty, nothing can grow.
    voxels = VoxelConfig(arguments.voxels, blob=Blob(4.0, 0.45), march=March(arguments.voxels, arguments.voxels - 1))
    config = RunConfig(
        arguments.word,
        MethodConfig("sds", guidance=1.0 if source.exact else 3.0),
        SceneConfig("volume", voxels),
        arguments.steps,
        size=source.prior.size,
        orbits=source.orbits,
    )
    run = Run(config, source.prior)
    with progress("steps") as report:
        while run.step < config.steps:
            seen = run.advance()
            report(seen.step, config.steps)
    mesh = export(arguments.out.with_suffix(".glb"), run.scene, MeshConfig(), provenance_of(config, source))
    assert mesh is not None
    write_film(arguments.out.with_suffix(".mp4"), turntable(mesh, 36, size=160))
    print(f"wrote {arguments.out}.glb and {arguments.out}.mp4: {len(mesh.faces)} faces, {run.evaluations} evaluations")
    scores = quality_of(run.scene, mesh, source)
    if scores is not None:
        print(f"PSNR {scores['psnr']:.1f} dB, IoU {scores['iou']:.2f}, Chamfer {scores['chamfer']:.3f} of a unit cube")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
