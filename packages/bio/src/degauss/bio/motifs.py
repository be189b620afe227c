r"""Sequence motifs: position weight matrices, read from files or from a consensus, and where they occur.

A motif of width w gives each letter a probability p_j(v) at each of its places j. The log-odds of a window against a
background b, in bits, is

    s_i = sum_j log2(p_j(x_{i+j}) / b(x_{i+j})),

on the strand that is read, and the same of the reverse complement of the motif for the other strand. It is linear in
the letters, so it also takes *soft* sequences: rows of weights in place of letters give the expected log-odds of a
window, and gradients flow through it.

A *hit* is a window whose score is so high that a window drawn from the background reaches it with probability
``p`` at most. That tail is summed exactly, over scores rounded to 1/200 bit (Staden 1989; Grant et al. 2011, FIMO).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from degauss.core.errors import InputError, near_miss

LETTERS = "ACGT"
UNIFORM = (0.25, 0.25, 0.25, 0.25)

IUPAC = {
    "A": "A", "C": "C", "G": "G", "T": "T", "U": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT",
    "M": "AC", "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
"""What each letter of a consensus stands for."""

# The share of background in every place: a letter that a collection never saw is unlikely, not impossible.
_FLOOR = 0.005
_STEPS = 200  # scores per bit in the distribution of scores

HIT = 5e-4
"""The probability that a window of background is called a hit, unless another is given."""


@dataclass(frozen=True)
class Motif:
    """A motif: ``probabilities[j][v]`` of A, C, G, T at place j (rows sum to 1), and the background they are against.

    Raises `InputError` for a matrix that is empty or whose rows are no distributions.
    """

    name: str
    probabilities: tuple[tuple[float, ...], ...]
    background: tuple[float, ...] = UNIFORM

    def __post_init__(self) -> None:
        if not self.probabilities:
            raise InputError(f"motif {self.name} has no place; expected at least one row of four probabilities.")
        for place, row in enumerate((*self.probabilities, self.background), 1):
            if len(row) != 4 or not all(0 <= p <= 1 for p in row) or abs(sum(row) - 1) > 0.01:
                where = f"place {place}" if place <= self.width else "the background"
                raise InputError(
                    f"motif {self.name}, {where}: is {list(row)}; expected four probabilities that sum to 1."
                )

    @property
    def width(self) -> int:
        return len(self.probabilities)

    def log_odds(self) -> Tensor:
        """log2(p / b), ``[width, 4]`` float64, with half a percent of background in p."""
        background = torch.tensor(self.background, dtype=torch.float64)
        p = torch.tensor(self.probabilities, dtype=torch.float64)
        p = p / p.sum(-1, keepdim=True)
        return torch.log2(((1 - _FLOOR) * p + _FLOOR * background) / background)

    def strands(self) -> Tensor:
        """The log-odds of the motif and of its reverse complement, ``[2, width, 4]`` float64."""
        log_odds = self.log_odds()
        return torch.stack([log_odds, log_odds.flip(0, 1)])  # ACGT backwards is its complement


def consensus(letters: str, name: str = "") -> Motif:
    """The motif of a IUPAC consensus: at each place, its letters alike. Raises `InputError` for any other letter."""
    rows: list[tuple[float, ...]] = []
    for place, letter in enumerate(letters.upper(), 1):
        if letter not in IUPAC:
            raise InputError(f"consensus {letters}: {letter!r} at place {place} is no IUPAC letter of DNA.")
        meant = IUPAC[letter]
        rows.append(tuple((v in meant) / len(meant) for v in LETTERS))
    return Motif(name or letters.upper(), tuple(rows))


# --- scanning -----------------------------------------------------------------------------------------------


def one_hot(tokens: Tensor, vocabulary: int = 4) -> Tensor:
    """Tokens ``[..., L]`` as weights ``[..., L, V]``, 0 or 1, of the default float type."""
    return F.one_hot(tokens, vocabulary).to(torch.get_default_dtype())


def scan(motif: Motif, weights: Tensor) -> Tensor:
    """The log-odds of every window in bits, ``[batch, 2, L - width + 1]``: on the strand given, on the other.

    ``weights``: ``[batch, L, 4]``. The score of the other strand stands where its window begins on the strand given.
    Raises `InputError` where the sequences are shorter than the motif.
    """
    if weights.shape[1] < motif.width:
        raise InputError(
            f"motif {motif.name} has {motif.width} places, but the sequences have {weights.shape[1]} letters; "
            "expected at least as many."
        )
    return F.conv1d(weights.mT, motif.strands().to(weights).mT)


@lru_cache(maxsize=1024)
def threshold(motif: Motif, p: float = HIT) -> float:
    """The least score in bits that a window of background reaches with probability ``p`` at most.

    Infinite where even the best window of the motif is more likely than that.
    """
    steps = (motif.log_odds() * _STEPS).round().long()
    lowest = steps.amin(1)
    span = int((steps.amax(1) - lowest).sum())
    law = torch.zeros(span + 1, dtype=torch.float64)
    law[0] = 1
    for row, least in zip(steps.tolist(), lowest.tolist(), strict=True):
        after = torch.zeros_like(law)
        for score, chance in zip(row, motif.background, strict=True):
            shift = score - least
            after[shift:] += chance * law[: len(law) - shift]
        law = after
    tail = law.flip(0).cumsum(0).flip(0)
    reached = (tail <= p * (1 + 1e-9)) & (law > 0)
    if not bool(reached.any()):
        return float("inf")
    return (int(reached.nonzero()[0]) + int(lowest.sum())) / _STEPS


def hits(motifs: Sequence[Motif], tokens: Tensor, p: float = HIT) -> Tensor:
    """How often each motif occurs in each sequence, either strand: int64 ``[batch, motifs]``; tokens ``[batch, L]``.

    Scores are rounded as `threshold` rounds them. A motif that is wider than the sequences, or too short to be
    significant, has no hit.
    """
    weights = one_hot(tokens)
    found = torch.zeros(len(tokens), len(motifs), dtype=torch.int64)
    by_width: dict[int, list[int]] = {}
    for index, motif in enumerate(motifs):
        by_width.setdefault(motif.width, []).append(index)
    for width, indices in by_width.items():
        if width > tokens.shape[1]:
            continue
        kernels = (torch.cat([motifs[index].strands() for index in indices]) * _STEPS).round().to(weights).mT
        limits = torch.tensor([threshold(motifs[index], p) * _STEPS - 0.5 for index in indices], device=tokens.device)
        for rows in torch.arange(len(tokens)).split(1024):  # so that memory does not grow with the file
            scores = F.conv1d(weights[rows].mT, kernels).unflatten(1, (len(indices), 2))
            found[rows[:, None], torch.tensor(indices)] = (scores >= limits[:, None, None]).sum((2, 3)).cpu()
    return found


# --- collections --------------------------------------------------------------------------------------------


def read_motifs(path: Path) -> list[Motif]:
    """The motifs of a file: minimal MEME (.meme, .txt), or JASPAR (.jaspar), .pfm and TRANSFAC through biopython.

    Raises `InputError` for a file that cannot be read, or has no motif of DNA.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as motifs ({error}).") from None
    found = _meme(path, text) if text.lstrip().startswith("MEME version") else _counted(path)
    if not found:
        raise InputError(f"{path}: holds no motif; expected MEME, JASPAR, PFM or TRANSFAC.")
    return found


def matching(name: str, motifs: Sequence[Motif]) -> list[Motif]:
    """The motifs of a name: the whole of it, or one of its parts (C101:GATA_MECOM:GATA is C101 and MECOM), any case."""
    wanted = name.upper()
    whole = [motif for motif in motifs if motif.name.upper() == wanted]
    return whole or [motif for motif in motifs if wanted in _parts(motif.name)]


def find_motif(name: str, motifs: Sequence[Motif]) -> Motif:
    """The one motif that matches a name; `InputError` where none does, or more than one, and it says which."""
    found = matching(name, motifs)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"motif {name!r} may be {' or '.join(motif.name for motif in found)}: name one of them.")
    known = {part for motif in motifs for part in _parts(motif.name)}
    raise InputError(f"there is no motif {name!r}{near_miss(name.upper(), known)} among {len(motifs)}.")


def _parts(name: str) -> set[str]:
    return {part for field in name.upper().replace(" ", ":").split(":") for part in (field, *field.split("_"))}


def _meme(path: Path, text: str) -> list[Motif]:
    """Minimal MEME, by hand: biopython rounds its probabilities to counts of sites, of which a file may say one."""
    found: list[Motif] = []
    name, rows, left = "", list[tuple[float, ...]](), 0
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if line.startswith("ALPHABET=") and line.partition("=")[2].strip() != LETTERS:
            raise InputError(f"{path}, line {number}: is of alphabet {line.partition('=')[2].strip()}; expected ACGT.")
        if words[:1] == ["MOTIF"]:
            name = " ".join(words[1:])
        elif line.startswith("letter-probability matrix"):
            rows, left = [], _width(path, number, words)
        elif left and words:
            try:
                rows.append(tuple(map(float, words)))
            except ValueError:
                raise InputError(f"{path}, line {number}: is {line!r}; expected four probabilities.") from None
            left -= 1
            if not left:
                found.append(Motif(name, tuple(rows)))
    if left:
        raise InputError(f"{path}: ends inside motif {name}; expected {left} more rows.")
    return found


def _width(path: Path, number: int, words: list[str]) -> int:
    try:
        width = int(words[words.index("w=") + 1])
    except (ValueError, IndexError):
        width = 0
    if width < 1:
        raise InputError(f"{path}, line {number}: does not say how wide the motif is; expected w= with a number.")
    return width


def _counted(path: Path) -> list[Motif]:
    """JASPAR, PFM or TRANSFAC, by biopython."""
    from Bio import motifs

    form = {".pfm": "pfm", ".transfac": "transfac"}.get(path.suffix.lower(), "jaspar")
    try:
        with path.open(encoding="utf-8") as file:
            read = list(motifs.parse(file, form))
        return [_of_counts(motif, path) for motif in read]
    except InputError:
        raise
    except Exception as error:  # biopython raises whatever its parser stumbles over
        raise InputError(f"{path}: cannot be read as {form} ({error}).") from None


def _of_counts(motif: object, path: Path) -> Motif:
    counts = getattr(motif, "counts")  # noqa: B009
    columns = torch.tensor([list(counts[letter]) for letter in LETTERS], dtype=torch.float64).T
    name = ":".join(str(part) for part in (getattr(motif, "matrix_id", None), getattr(motif, "name", None)) if part)
    return Motif(name or path.stem, tuple(map(tuple, (columns / columns.sum(-1, keepdim=True)).tolist())))
