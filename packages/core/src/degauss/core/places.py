"""Where files are looked for: the checkout, data sets, and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

_HERE = Path(__file__).resolve()


def checkout() -> Path | None:
    """The root of the checkout that this file runs from, None where Degauss is installed without its sources."""
    return next((p for p in _HERE.parents if (p / "packages" / "core" / "pyproject.toml").is_file()), None)


def data_root() -> Path:
    """Where data sets lie: `$DEGAUSS_DATA`, else `shared/data` beside the checkout, else the user's cache."""
    named = os.environ.get("DEGAUSS_DATA")
    if named:
        return Path(named)
    root = checkout()
    if root is not None and (beside := root.parent / "shared" / "data").is_dir():
        return beside
    return cache_root()


def cache_root() -> Path:
    """Where files that can be made again may lie: `$XDG_CACHE_HOME/degauss`, else `~/.cache/degauss`."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "degauss"
