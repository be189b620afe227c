"""What many tests need: a command line."""

from __future__ import annotations

import pytest

from degauss.core.cli import Program
from degauss.threed.cli import PROGRAM


@pytest.fixture
def program() -> Program:
    return PROGRAM
