"""A prior of your own meshes, and an object from one of its words.

    python packages/3d/examples/own_mesh_class.py [MESHES] [--word WORD] [--steps 400] [--out own]

MESHES is a folder: each mesh file (.glb, .obj, .ply) in it is a word, named by its stem. Without one, two are made: a
mushroom and a rocket. A small network learns their pictures from all around, and then a ball of voxels is distilled
from it. Writes OUT/model, which `degauss-3d generate --prior OUT/model` takes too, OUT/WORD.glb, and OUT/samples.png:
what the prior draws of each word from each side, beside the truth. A minute or two of one core; a prior that is worth
more needs thousands of steps: `degauss-3d train-prior`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from degauss.core.errors import InputError
from degauss.core.options import progress
from degauss.threed.embedded_prior import ORBITS, SMALL, EmbeddedConfig
from degauss.threed.exporting import MeshConfig, export
from degauss.threed.mesh_files import write_mesh
from degauss.threed.methods import MethodConfig
from degauss.threed.prior_plots import samples_figure
from degauss.threed.prior_quality import AZIMUTHS, Truth, drawn
from degauss.threed.prior_training import Drawing, fit, recipe, root_mean_square
from degauss.threed.quality import compare_views, held_out_views
from degauss.threed.run import Run, RunConfig
from degauss.threed.scenes import SceneConfig
from degauss.threed.shapes import Part, ball, box, carrot, cylinder, surface_of
from degauss.threed.view_images import read_classes
from degauss.threed.volume import Blob, March
from degauss.threed.voxels import VoxelConfig

SIZE, VOXELS = 24, 32
RED, WHITE, GREY, BLUE = (0.85, 0.12, 0.1), (0.95, 0.93, 0.88), (0.6, 0.62, 0.66), (0.1, 0.3, 0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", type=Path, nargs="?")
    parser.add_argument("--word", help="what to make; the first one unless given")
    parser.add_argument("--steps", type=int, default=400, help="of the prior; the object takes half as many")
    parser.add_argument("--pictures", type=int, default=300, help="of each word")
    parser.add_argument("--out", type=Path, default=Path("own"))
    arguments = parser.parse_args()

    folder = arguments.meshes or made_up(arguments.out / "meshes")
    classes = read_classes(folder)
    word = arguments.word or next(iter(classes))
    if word not in classes:
        raise InputError(f"{folder} has no {word!r}: its words are {', '.join(classes)}.")

    drawing = Drawing(ORBITS, SIZE, True, arguments.pictures, 0, arguments.out / "renders")
    with progress("drawing") as report:
        data = drawing.training(classes, report)
    network = replace(SMALL, channels=16)
    config = EmbeddedConfig(tuple(classes), SIZE, network=network, sigma_data=root_mean_square(data))
    prior = fit(config, data, None, recipe(arguments.out, steps=arguments.steps, ema=0.99, device="cpu"))
    truth = Truth.of(config, {name: meshes[0] for name, meshes in classes.items()})
    samples = drawn(prior, truth.views)
    samples_figure(arguments.out / "samples.png", prior.vocabulary, AZIMUTHS, truth.pictures, samples)

    voxels = VoxelConfig(VOXELS, blob=Blob(4.0, 0.45), march=March(VOXELS, VOXELS - 1))
    made = RunConfig(
        word,
        MethodConfig("sds", guidance=2.0),
        SceneConfig("volume", voxels),
        max(1, arguments.steps // 2),
        size=SIZE,
        orbits=config.orbits,
    )
    run = Run(made, prior)
    with progress("steps") as report:
        while run.step < made.steps:
            report(run.advance().step, made.steps)
    export(arguments.out / f"{word}.glb", run.scene, MeshConfig(48, 256))
    scores = compare_views(run.scene, classes[word][0], held_out_views(48))
    error = float((samples - truth.pictures).square().mean().sqrt())
    print(f"the prior knows {', '.join(prior.vocabulary)}; what it draws is {error:.2f} off, of pictures in [-1, 1]")
    print(f"wrote {arguments.out / word}.glb: PSNR {scores.psnr:.1f} dB and IoU {scores.iou:.2f} on views held out")


def made_up(folder: Path) -> Path:
    """A folder with a mushroom and a rocket."""
    mushroom = (
        Part(cylinder((0, -0.2, 0), 1, 0.11, 0.26), WHITE),
        Part(lambda p: torch.maximum(ball((0, 0, 0), 0.36)(p), -p[:, 1]), RED),
        *(Part(ball((0.31 * x, 0.13, 0.31 * z), 0.07), WHITE) for x, z in ((0, 1), (0.87, -0.5), (-0.87, -0.5))),
    )
    rocket = (
        Part(cylinder((0, -0.02, 0), 1, 0.13, 0.28), GREY),
        Part(carrot((0, 0.24, 0), (0, 0.48, 0), 0.13, 0.01), RED),
        Part(ball((0, 0.08, 0.12), 0.06), BLUE),
        *(Part(box((0.17 * x, -0.28, 0.17 * z), (0.02 + 0.09 * abs(x), 0.12, 0.02 + 0.09 * abs(z)), 0.01), BLUE)
          for x, z in ((1, 0), (-1, 0), (0, 1), (0, -1))),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in (("mushroom", mushroom), ("rocket", rocket)):
        write_mesh(folder / f"{name}.glb", surface_of(parts))
    return folder


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
