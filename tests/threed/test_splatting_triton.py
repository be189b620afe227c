"""Triton's kernels: interpreted here, compiled for a GPU without one, and run where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

HERE = Path(__file__).parent


def run(script: str, *words: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / script), *words],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_interpreted_the_tier_is_that_of_torch() -> None:
    run("_triton_trials.py", "cpu", TRITON_INTERPRET="1")


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    """To machine code of compute capability 9.0, by the assembler that Triton brings, and without spilling."""
    run("_triton_compiled.py", TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.gpu
def test_on_a_gpu_the_tier_is_that_of_torch() -> None:
    run("_triton_trials.py", "cuda")
