"""The command line `degauss-3d`."""

from __future__ import annotations

from degauss.core.cli import Program

PROGRAM = Program(name="degauss-3d", summary="diffusion models from text and images to 3D")


def main() -> int:
    """Run the command line and return its exit status."""
    return PROGRAM.main()
