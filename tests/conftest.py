"""For every test: one thread, so that test workers do not contend; no display; no deadlines."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for processes that tests start
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile("degauss", deadline=None)
hypothesis.settings.load_profile("degauss")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
