"""`degauss-bio score`: numbers for the sequences of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from degauss.core.errors import InputError
from degauss.core.options import check_file, progress

if TYPE_CHECKING:
    from degauss.bio.alphabets import Alphabet


@dataclass(frozen=True, kw_only=True)
class Score:
    """Score sequences: a row of the table for each, in their order.

    Columns: id, sequence, one for each reward and 'total' where there are several; gc (DNA), longest_run and
    dinucleotide_entropy (bits); with --natural the nearest natural sequence of the same length with the share of equal
    positions (identity), and the share of the sequence that is copied from any of them; flags: duplicate, simple (a
    repeat), copy. Lengths may differ.
    """

    sequences: Positional[Path]
    """FASTA, GenBank, a table or plain text."""
    rewards: Annotated[UseAppendAction[tuple[str, ...]], arg(name="reward")] = ()
    """What to score by: activity:FOLDER,cell=NAME, motif:NAME, gc:.4-.6, homopolymer:5, fitness:FOLDER, fold, ...; may
    be given again, with a weight as in 0.5*gc:.4-.6."""
    natural: Path | None = None
    """Sequences that are known, to see what is new."""
    alphabet: Literal["DNA", "protein"] = "DNA"
    """What the letters are, where no reward says it."""
    out: Path = Path("scores.csv")
    """The table to write (.csv)."""

    def run(self) -> None:
        from degauss.bio.rewards import total
        from degauss.bio.rewards.parsing import parse_term
        from degauss.bio.scoring import score_records, write_table
        from degauss.bio.sequences import read_sequences

        check_file(self.out, (".csv",))
        if self.out.resolve() == self.sequences.resolve():
            raise InputError(f"{self.out}: is the file of the sequences; expected another name to write to.")
        terms = [parse_term(text) for text in self.rewards]
        alphabet = total(terms).alphabet if terms else self._named()
        records = read_sequences(self.sequences)
        natural = None if self.natural is None else read_sequences(self.natural)
        with progress("scoring") as report:
            try:
                rows = score_records(records, alphabet, terms, natural or [], report)
            except InputError as error:
                raise InputError(f"{self.sequences}: {error}") from None
        write_table(self.out, rows)
        flagged = sum(bool(row["flags"]) for row in rows)
        print(f"wrote {self.out}: {len(rows)} sequences, {flagged} with a flag")

    def _named(self) -> Alphabet:
        from degauss.bio.alphabets import alphabet_of

        return alphabet_of(self.alphabet)
