"""The one error a user can cause, and the checks that raise it in one voice.

`InputError` is for what a person typed or a file contained. It carries one sentence that names the
file or field, what was found, and what was expected; a command line shows it alone, without a
traceback. A mistake of the calling program is a plain `ValueError` or `TypeError` instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A request or a file that cannot be used as given; the message is one sentence for its owner."""


class Stopped(RuntimeError):
    """Work that was asked to stop and can go on later; the message says how, ``exit_code`` is what a shell expects."""

    exit_code: int = 130


def near_miss(word: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the known word nearest to `word`, or an empty string."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def check_option(name: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`, else raise `InputError` that lists them."""
    options = list(allowed)
    if value in options:
        return value
    listed = ", ".join(repr(option) for option in options)
    raise InputError(f"{name} must be one of {listed}, but is {value!r}{near_miss(value, options)}.")


def check_range(name: str, value: float, low: float | None = None, high: float | None = None, unit: str = "") -> None:
    """Raise `InputError` unless `low <= value <= high`; a bound of None is open and NaN is never in range."""
    above = low is None or value >= low
    below = high is None or value <= high
    if above and below and value == value:
        return
    if low is not None and high is not None:
        expected = f"between {low} and {high}"
    elif low is not None:
        expected = f"at least {low}"
    elif high is not None:
        expected = f"at most {high}"
    else:
        expected = "a number"
    raise InputError(f"{name} must be {expected}{f' {unit}' if unit else ''}, but is {value}.")
