"""The command line `degauss-3d`."""

from __future__ import annotations

from degauss.core.cli import Program, Verb

PROGRAM = Program(
    name="degauss-3d",
    summary="diffusion models from text and images to 3D",
    verbs={
        "generate": Verb("degauss.threed.commands.generate:Generate", "Make a textured mesh from a word"),
        "batch": Verb("degauss.threed.commands.batch:Batch", "Make a mesh of each line of a file"),
        "lab": Verb("degauss.threed.commands.lab:Lab", "Compare methods side by side at equal evaluations"),
        "render": Verb("degauss.threed.commands.render:Render", "Render a mesh, splats or a run: views or a turntable"),
        "export": Verb("degauss.threed.commands.export:Export", "Write a run as a mesh or as splats"),
        "view": Verb("degauss.threed.commands.view:View", "Look at a mesh, splats or a run in the browser"),
        "train-prior": Verb("degauss.threed.commands.train_prior:TrainPrior", "Train a prior on pictures of meshes"),
        "train-generator": Verb(
            "degauss.threed.commands.train_generator:TrainGenerator", "Train one generator for all words of a prior"
        ),
    },
)


def main() -> int:
    """Run the command line and return its exit status."""
    return PROGRAM.main()
