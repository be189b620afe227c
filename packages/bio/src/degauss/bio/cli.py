"""The command line `degauss-bio`."""

from __future__ import annotations

from degauss.core.cli import Program

PROGRAM = Program(name="degauss-bio", summary="diffusion models for DNA and protein design")


def main() -> int:
    """Run the command line and return its exit status."""
    return PROGRAM.main()
