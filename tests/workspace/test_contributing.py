"""The code in CONTRIBUTING.md works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_solver_in_thirty_lines_has_its_order() -> None:
    solver, test = BLOCKS
    names: dict[str, Any] = {}
    exec(solver, names)
    exec(test, names)
    names["test_midway_has_order_two"]()
    body = [line for line in solver.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(body) <= 30
