"""The command line `degauss-audio`."""

from __future__ import annotations

from degauss.core.cli import Program

PROGRAM = Program(name="degauss-audio", summary="diffusion models for speech, singing and sound")


def main() -> int:
    """Run the command line and return its exit status."""
    return PROGRAM.main()
