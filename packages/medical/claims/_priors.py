"""The prior that a claim rests on, and the sentence that says which one it was."""

from __future__ import annotations

from typing import NamedTuple

from degauss.core.files import fingerprint
from degauss.medical.prior import SlicePrior, find_prior
from degauss.medical.scans import Modality


class Shipped(NamedTuple):
    """A prior that ships with the package, and what to say of it."""

    prior: SlicePrior
    note: str


def shipped(modality: Modality) -> Shipped:
    """The shipped prior of a modality."""
    folder = find_prior(modality)
    sha256 = fingerprint(folder / "model.safetensors")
    return Shipped(SlicePrior.load(folder), f"The prior is the shipped one of {modality.upper()}, sha256 {sha256}.")
