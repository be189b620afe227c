"""The command line `degauss-medical`."""

from __future__ import annotations

from degauss.core.cli import Program

PROGRAM = Program(
    name="degauss-medical",
    summary="diffusion models for 3D medical inverse problems and synthesis",
)


def main() -> int:
    """Run the command line and return its exit status."""
    return PROGRAM.main()
