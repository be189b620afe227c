r"""Letters and tokens: DNA and protein sequences as the integers that the models work on.

The token of a letter is its place in the alphabet: A, C, G, T are 0, 1, 2, 3, and the twenty amino acids are in the
order of their one-letter codes. Each letter of DNA and its complement add up to 3. Lower case means the same as upper
case. A *template* has `degauss.core.jump.FREE` where a letter may still be chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.errors import InputError, check_option
from degauss.core.jump import FREE

_NONE = -2


@dataclass(frozen=True)
class Alphabet:
    """The letters of a kind of sequence. ``unknown``: what stands for any of them."""

    name: str
    letters: str
    unknown: str = "-"

    @property
    def vocabulary(self) -> int:
        """How many letters there are; in a state, this number is the mask."""
        return len(self.letters)

    def encode(self, sequences: str | Sequence[str], names: Sequence[str] = ()) -> Tensor:
        """Tokens, int64: ``[length]`` of one sequence, ``[batch, length]`` of several.

        Raises `InputError` for a letter that is none of the alphabet and for several sequences of unequal lengths; it
        says which letter, where (from 1) and in which sequence, by its number or by its name in ``names``.
        """
        return self._encode(sequences, names, "", f"the letters of {self.name} are {self.letters}")

    def template(self, sequences: str | Sequence[str], names: Sequence[str] = ()) -> Tensor:
        """``encode`` for sequences with free places: ``unknown`` or "-" becomes `FREE`."""
        free = self.unknown.replace("-", "") + "-"
        expected = f"the letters of {self.name} are {self.letters}, and {' or '.join(free)} where it is free"
        return self._encode(sequences, names, free, expected)

    def decode(self, tokens: Tensor) -> list[str]:
        """Sequences of tokens ``[length]`` (a list of one) or ``[batch, length]``.

        Free places become ``unknown``. ValueError for any other number that is no token.
        """
        rows = tokens.reshape(-1, tokens.shape[-1]).cpu().numpy()
        wrong = rows[(rows >= self.vocabulary) | (rows < 0) & (rows != FREE)]
        if wrong.size:
            raise ValueError(f"tokens of {self.name} are 0 to {self.vocabulary - 1}, got {wrong[0]}")
        letters = np.frombuffer(f"{self.letters}{self.unknown}".encode(), dtype=np.uint8)
        # FREE is -1: the last letter.
        return [bytes(row).decode("ascii") for row in letters[rows]]

    def _encode(self, sequences: str | Sequence[str], names: Sequence[str], free: str, expected: str) -> Tensor:
        if isinstance(sequences, str):
            return self._tokens([sequences], names, free, expected)[0]
        if not sequences:
            raise ValueError("no sequences to encode")
        first = len(sequences[0])
        for number, sequence in enumerate(sequences):
            if len(sequence) != first:
                raise InputError(
                    f"{_named(number, names)} has {len(sequence)} letters, but {_named(0, names)} has {first}: "
                    "equal lengths are needed."
                )
        return self._tokens(sequences, names, free, expected)

    def _tokens(self, sequences: Sequence[str], names: Sequence[str], free: str, expected: str) -> Tensor:
        # A letter beyond latin-1 becomes "?", which is in no alphabet.
        text = "".join(sequences).encode("latin-1", "replace")
        tokens = self._table(free)[np.frombuffer(text, dtype=np.uint8)].reshape(len(sequences), -1)
        if (tokens == _NONE).any():
            row, column = (int(place) for place in np.argwhere(tokens == _NONE)[0])
            where = f"{_named(row, names)} has {sequences[row][column]!r} at position {column + 1}"
            raise InputError(f"{where}; {expected}.")
        return torch.from_numpy(tokens)

    def _table(self, free: str) -> NDArray[np.int64]:
        """What each byte is: a token, `FREE`, or none."""
        table = np.full(256, _NONE, dtype=np.int64)
        for token, letter in [*enumerate(self.letters), *((FREE, letter) for letter in free)]:
            table[ord(letter.upper())] = table[ord(letter.lower())] = token
        return table


def _named(number: int, names: Sequence[str]) -> str:
    return f"sequence {names[number]!r}" if names else f"sequence {number + 1}"


DNA = Alphabet("DNA", "ACGT", "N")
PROTEIN = Alphabet("protein", "ACDEFGHIKLMNPQRSTVWY", "X")


def alphabet_of(name: str) -> Alphabet:
    """The alphabet of a name that a file or a user says; `InputError` if there is none."""
    known = {alphabet.name: alphabet for alphabet in (DNA, PROTEIN)}
    return known[check_option("alphabet", name, known)]


def complement(tokens: Tensor) -> Tensor:
    """The other strand of DNA tokens, letter for letter and not turned round; free places stay free."""
    return torch.where(tokens == FREE, tokens, DNA.vocabulary - 1 - tokens)


def reverse_complement(tokens: Tensor) -> Tensor:
    """The other strand of DNA tokens ``[..., length]`` as it is read."""
    return complement(tokens).flip(-1)
