"""What many tests need: a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from degauss.core.cli import Program
from degauss.threed.cli import PROGRAM


@pytest.fixture
def examples() -> Path:
    return Path(__file__).parents[2] / "packages" / "3d" / "examples"


@pytest.fixture
def program() -> Program:
    return PROGRAM
