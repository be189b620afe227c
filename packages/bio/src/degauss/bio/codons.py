"""Coding DNA: all the sequences that are translated into a given protein, as a lattice over bases."""

from __future__ import annotations

from degauss.bio.alphabets import DNA
from degauss.core.errors import InputError, near_miss
from degauss.core.jump.automaton import Lattice, unfold

STOP = "*"
ANY = "X"

Codons = dict[str, frozenset[str]]
"""The codons of each amino acid, and of `STOP`."""


def genetic_code(name: str) -> int:
    """NCBI's number of a genetic code, from that or from its name: "11" and "Bacterial" are 11.

    Raises `InputError` for any other, with the nearest name, and for codes in which a codon is a stop in one place and
    an amino acid in another: what a sequence of them spells is not settled by its codons.
    """
    from Bio.Data import CodonTable

    codes = CodonTable.unambiguous_dna_by_id
    numbers = {str(known).lower(): int(code.id) for known, code in CodonTable.unambiguous_dna_by_name.items()}
    if not (name.isdigit() and int(name) in codes) and name.lower() not in numbers:
        raise InputError(
            f"no codon table {name!r}{near_miss(name.lower(), numbers)}; expected a number of NCBI "
            f"({', '.join(map(str, sorted(codes)))}) or a name such as 'Standard' or 'Bacterial'."
        )
    number = int(name) if name.isdigit() else numbers[name.lower()]
    dual = sorted(codon for codon in codes[number].stop_codons if codon in codes[number].forward_table)
    if dual:
        raise InputError(f"codon table {name!r} reads {' and '.join(dual)} both as a stop and as an amino acid.")
    return number


def codons_of(code: int) -> Codons:
    """The codons of a genetic code, by NCBI's number."""
    from Bio.Data import CodonTable

    table = CodonTable.unambiguous_dna_by_id[code]
    acid_of = {str(codon): str(acid) for codon, acid in table.forward_table.items()}
    acids = {acid: frozenset(c for c, a in acid_of.items() if a == acid) for acid in acid_of.values()}
    return {**acids, STOP: frozenset(str(codon) for codon in table.stop_codons)}


def check_protein(protein: str, codons: Codons) -> None:
    """Raise `InputError`, naming letter and place, unless every letter has a codon; `ANY` stands for any amino acid."""
    if not protein:
        raise InputError("the protein is empty; expected the letters of amino acids.")
    for place, letter in enumerate(protein, 1):
        if letter not in codons and letter != ANY:
            raise InputError(
                f"the protein has {letter!r} at position {place}; "
                f"expected one of {''.join(sorted(codons))}, or {ANY} for any amino acid."
            )


def coding(protein: str, start: int, length: int, codons: Codons) -> Lattice:
    """The DNA sequences of one length that spell a protein, its first codon at ``start`` >= 0, and anything elsewhere.

    ``protein``: letters of amino acids, `ANY`, and `STOP` where a stop codon is wanted. ValueError if it does not fit.
    """
    if not 0 <= start <= length - 3 * len(protein):
        raise ValueError(f"{len(protein)} codons from position {start} do not fit into {length} bases")
    amino = frozenset(codon for acid, some in codons.items() if acid != STOP for codon in some)
    wanted = [amino if letter == ANY else codons[letter] for letter in protein]

    def step(position: int, begun: str, token: int) -> str | None:
        number, place = divmod(position - start, 3)
        if not 0 <= number < len(wanted):
            return ""
        begun += DNA.letters[token]
        if place < 2:
            return begun
        return "" if begun in wanted[number] else None

    return unfold("", step, lambda begun: True, length, DNA.vocabulary)
