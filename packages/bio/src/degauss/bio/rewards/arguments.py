"""The text after the colon of a reward: ``first,key=value,key=value``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from degauss.core.errors import InputError, near_miss


class Arguments(NamedTuple):
    """What was given: the first argument ("" for none) and the named ones."""

    first: str
    named: dict[str, str]


def arguments(reward: str, text: str, known: Sequence[str] = ()) -> Arguments:
    """Split the text of a reward's arguments; `InputError` for a name that is not among ``known``, or twice there."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    first = parts.pop(0) if parts and not _is_named(parts[0], known) else ""
    named: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise InputError(f"reward {reward}:{text}: {part!r} is no argument; expected KEY=VALUE.")
        if key not in known:
            there = f"there is {', '.join(known)}" if known else "it takes none"
            raise InputError(f"reward {reward}:{text}: has no argument {key!r}{near_miss(key, known)}; {there}.")
        if key in named:
            raise InputError(f"reward {reward}:{text}: {key} is given twice.")
        named[key] = value
    return Arguments(first, named)


def _is_named(part: str, known: Sequence[str]) -> bool:
    return part.partition("=")[0] in known and "=" in part


def number(reward: str, what: str, text: str) -> float:
    """A finite number; `InputError` naming the reward and the argument otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"reward {reward}: {what} is {text!r}; expected a number.")
    return value
