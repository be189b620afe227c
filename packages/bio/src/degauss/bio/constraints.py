"""Hard constraints on designs: what a command line says, the lattice that enforces it, and an independent check.

Positions count from 1, as in GenBank: ``12:TATAAA`` puts the first T on the twelfth letter. Motifs are in IUPAC letters
(N, R, W, ... of DNA; X, B, Z, J of protein) or names of restriction enzymes, and DNA has two strands: a required motif
may be on either, a forbidden one on neither, unless ``:+`` (as written) or ``:-`` (on the other strand) follows it.

``Constraints.lattice`` is what samplers are constrained by (`degauss.core.jump.constrained`): they meet all constraints
in every sample. ``Constraints.violations`` looks at a finished sequence without any automaton: by text search and
counting, and through biopython.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from itertools import groupby
from operator import and_
from typing import NamedTuple, Protocol

import torch

from degauss.bio import codons, restriction
from degauss.bio.alphabets import DNA, Alphabet
from degauss.bio.motif_automata import Motif, containing, without
from degauss.bio.windows import WIDEST_EXACT, Window
from degauss.core.errors import InputError, check_range
from degauss.core.jump.automaton import MOST_STATES, Lattice, TooManyStates, allowed, explore

_CLASSES = {
    "DNA": {
        **{"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC"},
        **{"B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT"},
    },
    "protein": {"B": "DN", "Z": "EQ", "J": "IL", "X": "ACDEFGHIKLMNPQRSTVWY"},
}
_STRONG = "GC"
_ROUNDING = 1e-9

Build = Callable[[int], Lattice]
"""The lattice for a length."""


class Constraint(Protocol):
    """One constraint; its text is what was typed."""

    def builds(self) -> Sequence[Build]:
        """Its lattice; of several, each has fewer states and sequences than the one before, all of them allowed."""
        ...

    def violations(self, sequence: str) -> Iterator[str]:
        """What is wrong with a sequence in upper case, and where."""
        ...


# What letters mean


def letters_of(letter: str, alphabet: Alphabet) -> str:
    """The letters that one of a motif stands for; empty for one that is none."""
    return letter if letter in alphabet.letters else _CLASSES.get(alphabet.name, {}).get(letter, "")


def motif_of(text: str, alphabet: Alphabet) -> Motif:
    """A motif as classes of tokens."""
    return tuple(frozenset(map(alphabet.letters.index, letters_of(letter, alphabet))) for letter in text)


def _is_motif(text: str, alphabet: Alphabet) -> bool:
    return bool(text) and all(letters_of(letter, alphabet) for letter in text)


def _check_motif(text: str, alphabet: Alphabet, what: str) -> str:
    text = text.upper()
    for letter in text:
        if not letters_of(letter, alphabet):
            known = alphabet.letters + "".join(sorted(_CLASSES.get(alphabet.name, {})))
            raise InputError(f"{what} has the letter {letter!r}; expected letters of {alphabet.name} among {known}.")
    if not text:
        raise InputError(f"{what} has no letters.")
    return text


def _places(motif: str, sequence: str, alphabet: Alphabet) -> list[int]:
    """Where a motif begins, from 1, overlaps included."""
    pattern = "".join(f"[{letters_of(letter, alphabet)}]" for letter in motif)
    return [match.start() + 1 for match in re.finditer(f"(?={pattern})", sequence)]


def _reversed(motif: str) -> str:
    """A motif of DNA as it reads on the other strand."""
    from Bio.Seq import Seq

    return str(Seq(motif).reverse_complement())


# The constraints


@dataclass(frozen=True)
class Fixed:
    """Letters, or classes of letters, at given positions. ``start``: from 1."""

    text: str
    start: int
    letters: str
    alphabet: Alphabet

    def __str__(self) -> str:
        return f"fix {self.text}"

    def builds(self) -> Sequence[Build]:
        return [self._lattice]

    def _lattice(self, length: int) -> Lattice:
        last = self.start + len(self.letters) - 1
        if last > length:
            raise InputError(f"{self} ends at position {last}, but the sequence has {length}.")
        mask = torch.ones(length, self.alphabet.vocabulary, dtype=torch.bool)
        for position, tokens in enumerate(motif_of(self.letters, self.alphabet), self.start - 1):
            mask[position] = False
            mask[position, sorted(tokens)] = True
        return allowed(mask)

    def violations(self, sequence: str) -> Iterator[str]:
        for position, letter in enumerate(self.letters, self.start):
            found = sequence[position - 1 : position]
            if not found or found not in letters_of(letter, self.alphabet):
                yield f"{self}: position {position} is {found or 'beyond the end'}, not {letter}"


@dataclass(frozen=True)
class _Sites:
    """A motif in all the forms that are looked for: IUPAC letters with the strand they are read on."""

    text: str
    words: tuple[tuple[str, str], ...]
    alphabet: Alphabet

    def motifs(self) -> list[Motif]:
        return [motif_of(word, self.alphabet) for word, _ in self.words]

    def found(self, sequence: str) -> Iterator[tuple[str, str, int]]:
        """Each occurrence: word, strand, position."""
        for word, strand in self.words:
            for place in _places(word, sequence, self.alphabet):
                yield word, strand, place


@dataclass(frozen=True)
class Required:
    """A motif that occurs at least once, on one of the strands asked for."""

    sites: _Sites

    def __str__(self) -> str:
        return f"require {self.sites.text}"

    def builds(self) -> Sequence[Build]:
        return [containing(self.sites.motifs(), self.sites.alphabet.vocabulary).lattice]

    def violations(self, sequence: str) -> Iterator[str]:
        if next(self.sites.found(sequence), None) is None:
            yield f"{self}: not found"


@dataclass(frozen=True)
class Forbidden:
    """A motif that occurs nowhere on the strands asked for."""

    sites: _Sites

    def __str__(self) -> str:
        return f"forbid {self.sites.text}"

    def builds(self) -> Sequence[Build]:
        return [without(self.sites.motifs(), self.sites.alphabet.vocabulary).lattice]

    def violations(self, sequence: str) -> Iterator[str]:
        for word, strand, place in self.sites.found(sequence):
            yield f"{self}: {word} at position {place} ({strand})"


@dataclass(frozen=True)
class Homopolymer:
    """No letter more than ``most`` times in a row."""

    most: int
    alphabet: Alphabet

    def __str__(self) -> str:
        return f"max-homopolymer {self.most}"

    def builds(self) -> Sequence[Build]:
        vocabulary = self.alphabet.vocabulary
        runs = [(frozenset([token]),) * (self.most + 1) for token in range(vocabulary)]
        return [without(runs, vocabulary).lattice]

    def violations(self, sequence: str) -> Iterator[str]:
        position = 1
        for letter, run in groupby(sequence):
            count = len(list(run))
            if count > self.most:
                yield f"{self}: {count} times {letter} from position {position}"
            position += count


@dataclass(frozen=True)
class Share:
    """A range of shares of G and C, as typed."""

    text: str
    low: float
    high: float

    def counts(self, length: int, what: str) -> tuple[int, int]:
        """The fewest and most G and C in so many letters; `InputError` where no count is in the range."""
        low, high = math.ceil(self.low * length - _ROUNDING), math.floor(self.high * length + _ROUNDING)
        if low > high:
            raise InputError(f"{what} cannot be met: no number of G and C among {length} bases is in that range.")
        return low, high

    def holds(self, letters: str) -> bool:
        return self.low - _ROUNDING <= _gc(letters) <= self.high + _ROUNDING


@dataclass(frozen=True)
class Composition:
    """The share of G and C in the whole sequence."""

    share: Share

    def __str__(self) -> str:
        return f"gc {self.share.text}"

    def builds(self) -> Sequence[Build]:
        return [self._lattice]

    def _lattice(self, length: int) -> Lattice:
        low, high = self.share.counts(length, str(self))

        def step(count: int, token: int) -> int | None:
            count += DNA.letters[token] in _STRONG
            return count if count <= high else None

        return explore(0, step, lambda count: count >= low, DNA.vocabulary).lattice(length)

    def violations(self, sequence: str) -> Iterator[str]:
        if not self.share.holds(sequence):
            yield f"{self}: is {_gc(sequence):.3f}"


@dataclass(frozen=True)
class Sliding:
    """The share of G and C in every window of ``width`` neighbouring bases.

    Windows wider than `windows.WIDEST_EXACT` are held by a sufficient condition, the loosest for which there is room.
    """

    text: str
    width: int
    share: Share

    def __str__(self) -> str:
        return f"gc-window {self.text}"

    @property
    def stricter(self) -> bool:
        """Whether it is held by a condition that some allowed sequences do not meet."""
        return self.width > WIDEST_EXACT

    def builds(self) -> Sequence[Build]:
        if not self.stricter:
            return [lambda length: self._window(length).exact(length)]
        return [
            lambda length: self._window(length).buckets(length, finest=5),
            lambda length: self._window(length).buckets(length, finest=2),
            lambda length: self._window(length).corridor(length),
        ]

    def _window(self, length: int) -> Window:
        if self.width > length:
            raise InputError(f"{self}: the window is wider than the sequence, which has {length} bases.")
        low, high = self.share.counts(self.width, str(self))
        return Window(self.width, low, high, tuple(map(DNA.letters.index, _STRONG)), DNA.vocabulary)

    def violations(self, sequence: str) -> Iterator[str]:
        for first in range(len(sequence) - self.width + 1):
            window = sequence[first : first + self.width]
            if not self.share.holds(window):
                yield f"{self}: is {_gc(window):.3f} at positions {first + 1}-{first + self.width}"


@dataclass(frozen=True)
class Coding:
    """The protein that the sequence codes for, its first codon at ``start`` (from 1). ``code``: NCBI's number."""

    text: str
    start: int
    protein: str
    code: int

    def __str__(self) -> str:
        return f"protein {self.text}"

    @property
    def last(self) -> int:
        return self.start + 3 * len(self.protein) - 1

    def builds(self) -> Sequence[Build]:
        return [self._lattice]

    def _lattice(self, length: int) -> Lattice:
        if self.last > length:
            raise InputError(
                f"{self}: {len(self.protein)} codons from position {self.start} end at position {self.last}, "
                f"but the sequence has {length}."
            )
        return codons.coding(self.protein, self.start - 1, length, codons.codons_of(self.code))

    def violations(self, sequence: str) -> Iterator[str]:
        from Bio.Seq import Seq

        coding = Seq(sequence[self.start - 1 : self.last])
        whole = coding[: len(coding) // 3 * 3]
        found = str(whole.translate(table=str(self.code))).ljust(len(self.protein), "-")
        for place, (letter, wanted) in enumerate(zip(found, self.protein, strict=True), 1):
            if letter != wanted and (wanted != codons.ANY or letter in "-*"):
                yield f"{self}: amino acid {place} is {letter}, not {wanted}"


_COUNTING = (Composition, Sliding)


def _gc(letters: str) -> float:
    return sum(map(letters.count, _STRONG)) / len(letters) if letters else 0.0


# All of them


@dataclass(frozen=True)
class Constraints:
    """Constraints that all hold."""

    parts: tuple[Constraint, ...] = ()
    alphabet: Alphabet = DNA

    def lattice(self, length: int) -> Lattice:
        """The sequences of one length that meet every constraint, or, with wide windows, some of them.

        Raises `InputError` where there are none, naming constraints that contradict each other and none that could be
        left out of them; and where they need more states than can be worked with.
        """
        check_range("length", length, 1)
        parts = [_Part(part, tuple(map(cache, part.builds()))) for part in self.parts]
        try:
            lattice = _loosest(parts, length, self.alphabet)
        except TooManyStates:
            raise InputError(_too_much(parts, length)) from None
        if lattice.empty:
            raise InputError(_contradiction(parts, length, self.alphabet))
        return lattice

    def violations(self, sequence: str) -> list[str]:
        """All that is wrong with a sequence, found without any automaton; empty where it meets every constraint."""
        sequence = sequence.upper()
        return [fault for part in self.parts for fault in part.violations(sequence)]


class _Part(NamedTuple):
    """A constraint, and its lattices from the loosest to the strictest, each built once."""

    constraint: Constraint
    builds: tuple[Build, ...]

    def lattice(self, level: int, length: int) -> Lattice:
        return self.builds[min(level, len(self.builds) - 1)](length)


def _loosest(parts: Sequence[_Part], length: int, alphabet: Alphabet) -> Lattice:
    """The first product that has sequences and room, over ever stricter forms of the constraints; else the last."""
    anything = allowed(torch.ones(length, alphabet.vocabulary, dtype=torch.bool))
    # Those that count share their states, and those that look at neighbours have few: each kind by itself first.
    counting = [part for part in parts if isinstance(part.constraint, _COUNTING)]
    looking = reduce(and_, (part.lattice(0, length) for part in parts if part not in counting), anything)
    last = max((len(part.builds) for part in counting), default=1) - 1
    for level in range(last):
        try:
            lattice = looking & reduce(and_, (part.lattice(level, length) for part in counting), anything)
        except TooManyStates:
            continue
        if not lattice.empty:
            return lattice
    return looking & reduce(and_, (part.lattice(last, length) for part in counting), anything)


def _contradiction(parts: Sequence[_Part], length: int, alphabet: Alphabet) -> str:
    """The sentence that names a smallest set of constraints with no sequence in common."""
    kept = list(parts)
    for part in parts:
        others = [other for other in kept if other is not part]
        if _impossible(others, length, alphabet):
            kept = others
    names = [part.constraint for part in kept]
    wide = [str(name) for name in names if isinstance(name, Sliding) and name.stricter]
    why = f" ({' and '.join(wide)}: wide windows are held by a stricter rule; try a wider range)" if wide else ""
    if len(names) == 1:
        return f"no sequence of {length} letters meets the constraint {names[0]}{why}."
    return f"no sequence of {length} letters meets these constraints together: {_listed(names)}{why}."


def _impossible(parts: Sequence[_Part], length: int, alphabet: Alphabet) -> bool:
    """Whether constraints contradict each other; where that is too much to find out, they may not."""
    try:
        return _loosest(parts, length, alphabet).empty
    except TooManyStates:
        return False


def _too_much(parts: Sequence[_Part], length: int) -> str:
    """The sentence that names the constraints by how much room they take."""
    rising = sorted(parts, key=lambda part: part.builds[-1](length).states)
    return (
        f"the constraints {_listed([part.constraint for part in reversed(rising)])} cannot be enforced together on "
        f"{length} letters, as they need more than {MOST_STATES} automaton states: leave one out, the first of them "
        "above all."
    )


def _listed(constraints: Sequence[Constraint]) -> str:
    return ", ".join(map(str, constraints))


# What was typed


def parse_constraints(
    *,
    fix: Sequence[str] = (),
    require: Sequence[str] = (),
    forbid: Sequence[str] = (),
    gc: str | None = None,
    gc_window: Sequence[str] = (),
    max_homopolymer: int | None = None,
    protein: str | None = None,
    codon_table: str = "1",
    alphabet: Alphabet = DNA,
) -> Constraints:
    """Constraints from their text; those of a list may also be separated by commas.

    ``fix``: ``12:TATAAA``, letters or IUPAC classes from a position, which counts from 1. ``require``, ``forbid``: a
    motif (``GATAAG``, ``TGASTCA``) or the name of a restriction enzyme (``BsaI``), with ``:+`` or ``:-`` for one strand
    only. ``gc``: a range of shares, ``.4-.6``. ``gc_window``: a width and a range, ``50:.3-.7``. ``max_homopolymer``:
    how often a letter may be repeated. ``protein``: amino acids, ``*`` for a stop codon, X for any; ``13:MKV*`` starts
    at position 13. ``codon_table``: NCBI's number or name of a genetic code.

    Raises `InputError` for a text that cannot be read, and for what proteins have not: strands, codons, GC.
    """
    parts: list[Constraint] = [_fixed(text, alphabet) for text in _separated(fix)]
    if alphabet.name != DNA.name and (gc or gc_window or protein):
        raise InputError(f"gc, gc-window and protein are constraints on DNA, but the sequences are {alphabet.name}.")
    if protein is not None:
        parts.append(_coding(protein, codon_table))
    parts += [Composition(_share(gc, "gc"))] if gc is not None else []
    parts += [_sliding(text) for text in _separated(gc_window)]
    if max_homopolymer is not None:
        check_range("max-homopolymer", max_homopolymer, 1)
        parts.append(Homopolymer(max_homopolymer, alphabet))
    parts += [Required(_sites(text, alphabet, "require")) for text in _separated(require)]
    parts += [Forbidden(_sites(text, alphabet, "forbid")) for text in _separated(forbid)]
    return Constraints(tuple(parts), alphabet)


def _separated(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",")]


def _placed(text: str, what: str, example: str) -> tuple[int, str]:
    """The position, from 1, and what comes behind the colon."""
    place, colon, rest = text.partition(":")
    if not colon or not place.strip().isdigit() or int(place) < 1:
        raise InputError(f"{what} must be like {example}, with a position from 1, but is {text!r}.")
    return int(place), rest.strip()


def _fixed(text: str, alphabet: Alphabet) -> Fixed:
    start, letters = _placed(text, "fix", "12:TATAAA")
    return Fixed(text, start, _check_motif(letters, alphabet, f"fix {text}"), alphabet)


def _sites(text: str, alphabet: Alphabet, what: str) -> _Sites:
    name, colon, strand = text.partition(":")
    if alphabet.name != DNA.name:
        return _Sites(text, ((_check_motif(text, alphabet, f"{what} {text}"), "+"),), alphabet)
    if colon and strand not in ("+", "-"):
        raise InputError(f"{what} {text}: the strand must be + or -, but is {strand!r}.")
    forward = _words(name, what)
    reverse = tuple(_reversed(word) for word in forward)
    words = [(word, "+") for word in forward if strand != "-"]
    # A palindrome reads the same on both strands: it is listed once.
    words += [(word, "-") for word in reverse if strand == "-" or (not strand and word not in forward)]
    return _Sites(text, tuple(words), alphabet)


def _words(name: str, what: str) -> tuple[str, ...]:
    """The IUPAC words of an enzyme's name or of a motif."""
    sites = restriction.sites_of(name)
    if sites:
        return sites
    if _is_motif(name.upper(), DNA):
        return (name.upper(),)
    spelled = restriction.spelled(name)
    if spelled is not None:
        return restriction.sites_of(spelled)
    letters = DNA.letters + "".join(sorted(_CLASSES[DNA.name]))
    near = restriction.nearest(name)
    raise InputError(f"{what}: {name!r} is neither a motif in the letters {letters} nor a restriction enzyme{near}.")


def _share(text: str, what: str) -> Share:
    match = re.fullmatch(r"\s*(\d*\.?\d+|\d+\.)\s*-\s*(\d*\.?\d+|\d+\.)\s*", text)
    low, high = map(float, match.groups()) if match else (math.nan, math.nan)
    if not 0 <= low <= high <= 1:
        raise InputError(f"{what} must be a range of shares from 0 to 1 such as .4-.6, but is {text!r}.")
    return Share(text, low, high)


def _sliding(text: str) -> Sliding:
    width, colon, share = text.partition(":")
    if not colon or not width.strip().isdigit() or int(width) < 1:
        raise InputError(f"gc-window must be a width and a range such as 50:.3-.7, but is {text!r}.")
    return Sliding(text, int(width), _share(share, f"gc-window {text}: the range"))


def _coding(text: str, table: str) -> Coding:
    start, protein = _placed(text, "protein", "13:MKV") if ":" in text else (1, text.strip())
    protein = protein.upper()
    code = codons.genetic_code(table)
    codons.check_protein(protein, codons.codons_of(code))
    return Coding(text, start, protein, code)
