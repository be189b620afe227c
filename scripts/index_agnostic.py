"""Rewrite uv.lock so that it names no package index: any mirror or wheel folder then serves it.

usage: python scripts/index_agnostic.py uv.lock

Every wheel's address becomes its file name, a source distribution keeps only its hash, the index is
called `pypi`, and sizes, which only some indexes tell, are left out. All hashes stay, so what gets installed
is the same to the byte. `uv export --frozen`, `uv lock --check` and `uv tree` read this form; `uv sync` does
not, hence `make sync`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

REGISTRY = re.compile(r'registry = "[^"]*"')
WHEEL = re.compile(r'url = "[^"]*/([^"/]+\.whl)"')
SDIST = re.compile(r'^(sdist = \{) url = "[^"]*",', flags=re.MULTILINE)
SIZE = re.compile(r", size = \d+")


def index_agnostic(lock: str) -> str:
    """Return the text of a lock file without its addresses; a second pass changes nothing."""
    lock = REGISTRY.sub('registry = "pypi"', lock)
    lock = WHEEL.sub(r'filename = "\1"', lock)
    return SIZE.sub("", SDIST.sub(r"\1", lock))


def main() -> None:
    path = Path(sys.argv[1])
    text = index_agnostic(path.read_text(encoding="utf-8"))
    if left := re.search(r".*://.*", text):
        sys.exit(f"{path}: an address is left: {left.group().strip()}")
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
