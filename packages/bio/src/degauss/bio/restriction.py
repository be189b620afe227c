"""Restriction enzymes by name, and the sites that they recognise (REBASE, through biopython)."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from typing import Any

_ROMAN = {"1": "I", "2": "II", "3": "III", "4": "IV", "5": "V", "6": "VI"}


@cache
def _enzymes() -> dict[str, tuple[str, ...]]:
    """The recognition sites of each enzyme, IUPAC letters 5' to 3', one strand."""
    from Bio import Restriction

    batch: Any = Restriction.AllEnzymes
    return {str(enzyme): tuple(str(enzyme.site).split("|")) for enzyme in batch}


@cache
def _by_lower_case() -> dict[str, str]:
    return {name.lower(): name for name in _enzymes()}


def sites_of(name: str) -> tuple[str, ...]:
    """The sites of an enzyme, 5' to 3' on one strand; none where no enzyme has this name, in its own spelling."""
    return _enzymes().get(name, ())


def spelled(name: str) -> str | None:
    """The name of an enzyme as REBASE spells it, from any mixture of upper and lower case; None where there is none."""
    return _by_lower_case().get(name.lower())


def nearest(name: str) -> str:
    """`" (did you mean 'EcoRI'?)"`, or nothing where no name is near. EcoR1 is EcoRI."""
    stem = name.rstrip("0123456789")
    roman = spelled(stem + _ROMAN.get(name[len(stem) :], ""))
    if roman is not None:
        return f" (did you mean {roman!r}?)"
    near = get_close_matches(name.lower(), _by_lower_case(), n=1)
    return f" (did you mean {_by_lower_case()[near[0]]!r}?)" if near else ""
