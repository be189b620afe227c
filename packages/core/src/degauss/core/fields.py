"""Values read back from JSON: each check names the field, what was expected and what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from degauss.core.errors import InputError


def sequence(about: Mapping[str, Any], field: str) -> list[Any]:
    """A list; InputError naming the field if it is missing or something else."""
    value = about.get(field)
    expect(field, isinstance(value, list), "a list", "missing" if field not in about else f"{value!r}")
    return cast("list[Any]", value)


def numbers(about: Mapping[str, Any], field: str) -> tuple[float, ...]:
    """A list of finite numbers; InputError naming the field, and the first entry that is none."""
    values = sequence(about, field)
    for i, value in enumerate(values):
        fine = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        expect(f"{field}[{i}]", fine, "a finite number", f"{value!r}")
    return tuple(map(float, values))


def integer(about: Mapping[str, Any], field: str) -> int:
    """An integer; InputError naming the field if it is missing or something else."""
    value = about.get(field)
    fine = isinstance(value, int) and not isinstance(value, bool)
    expect(field, fine, "an integer", "missing" if field not in about else f"{value!r}")
    return cast("int", value)


def expect(field: str, fine: bool, expected: str, found: str) -> None:
    """InputError naming the field unless it is fine."""
    if not fine:
        raise InputError(f"{field} must be {expected}, but is {found}.")


def table(about: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """A table of fields; InputError naming the field if it is missing or something else."""
    value = about.get(field)
    expect(field, isinstance(value, dict), "a table", "missing" if field not in about else f"{value!r}")
    return cast("Mapping[str, Any]", value)


def number(about: Mapping[str, Any], field: str) -> float:
    """A finite number; InputError naming the field if it is missing or something else."""
    (value,) = numbers({field: [about.get(field)]}, field)
    return value
