"""`degauss-3d view`: look at something in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from degauss.core.errors import check_range
from degauss.core.options import device_of


@dataclass(frozen=True, kw_only=True)
class View:
    """Look at a mesh, splats, the folder of a run, or a word of a generator in the browser; Ctrl-C ends it.

    A run's folder is read again whenever it has a new checkpoint, so that one can watch while it goes on.
    """

    what: Positional[Path]
    """A mesh, splats, or the folder of a run or of a generator."""
    word: str | None = None
    """Of a generator, as 'train-generator' writes it: whose scene."""
    port: int = 8080
    """Where the page is served, on this machine."""
    size: int = 256
    """Pixels a side of what is rendered."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def run(self) -> None:
        from degauss.threed.viewer import serve

        check_range("port", self.port, 1, 65535)
        check_range("size", self.size, 16, 2048, "pixels")
        serve(self.what, self.port, self.size, device_of(self.device), self.word)
