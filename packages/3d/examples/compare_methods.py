"""Methods of distillation at equal cost: the same prior, scene and seed, and as many evaluations each.

    python packages/3d/examples/compare_methods.py [WORD] [--prior embedded] [--methods sds asd tsm] [--out compared]

A step of one method asks the prior more often than a step of another, so none is compared by its steps: each goes on
until its evaluations are spent. Prints how near each came to the true mesh along the way, and writes OUT.png: what each
made, from around, and last what the prior wants of its front at little, middle and much noise. About a minute and a
half of one core. The figures of noise against time, and of several runs each, are those of `degauss-3d lab`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from degauss.core.errors import InputError, check_option
from degauss.core.options import progress
from degauss.threed.laboratory import Outcome, compare
from degauss.threed.methods import NAMES, MethodConfig, Name
from degauss.threed.plots import grid, write_picture
from degauss.threed.prior_sources import Source, open_prior
from degauss.threed.run import RunConfig
from degauss.threed.scenes import SceneConfig
from degauss.threed.volume import Blob, March
from degauss.threed.voxels import VoxelConfig
from degauss.threed.watching import with_wanted

VOXELS, VIEWS, COST = 32, 4, 3
"""``COST``: of a step, evaluations for each view, about: what schedules are stretched by."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="snowman")
    parser.add_argument("--prior", default="embedded", help="or the folder of one, or oracle:MESH")
    parser.add_argument("--methods", nargs="+", default=["sds", "asd", "tsm"])
    parser.add_argument("--evaluations", type=int, default=1600)
    parser.add_argument("--out", type=Path, default=Path("compared"))
    arguments = parser.parse_args()

    for name in arguments.methods:
        check_option("a method", name, NAMES)
    source = open_prior(arguments.prior)
    source.prior.check(arguments.word)
    source = source.about(arguments.word)
    steps = max(1, arguments.evaluations // (COST * VIEWS))
    configs = [config_of(arguments.word, name, source, steps) for name in arguments.methods]
    with progress("evaluations") as report:
        whole = arguments.evaluations * len(configs)
        outcomes = compare(
            configs,
            source,
            arguments.evaluations,
            4,
            "cpu",
            lambda number, spent: report(number * arguments.evaluations + spent, whole),
        )
    for outcome in outcomes:
        print(told(outcome))
    write_picture(
        arguments.out.with_suffix(".png"), grid([with_wanted(one.around.rgb, one.wanted) for one in outcomes])
    )
    print(f"wrote {arguments.out}.png")


def config_of(word: str, name: Name, source: Source, steps: int) -> RunConfig:
    voxels = VoxelConfig(VOXELS, blob=Blob(4.0, 0.45), march=March(VOXELS, VOXELS - 1))
    method = MethodConfig(name, guidance=1.0 if source.exact else 3.0)
    size, orbits = source.prior.size, source.orbits
    return RunConfig(word, method, SceneConfig("volume", voxels), steps, VIEWS, size, orbits)


def told(outcome: Outcome) -> str:
    """A method's way: scores are nan where the true mesh is not known."""
    way = "  ".join(f"{at.evaluations}: {at.psnr:.1f} dB, IoU {at.iou:.2f}" for at in outcome.curve)
    return f"{outcome.method:4s} {way}"


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
