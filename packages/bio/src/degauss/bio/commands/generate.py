"""`degauss-bio generate`: new sequences from a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from degauss.bio.commands.sampling_options import SamplingOptions, check_fasta
from degauss.core.errors import InputError, check_range


@dataclass(frozen=True, kw_only=True)
class Generate(SamplingOptions):
    """Draw sequences from a model and write them as FASTA.

    Each header says the seed, the sample's number, the model's hash and the sequence's log-probability under it (in
    nats; for more than 8 letters a lower bound). Beside the FASTA goes a JSON file with all that the sequences depend
    on. Stop it and run it again: it goes on where it stopped.
    """

    n: int = 16
    """How many sequences to draw."""
    length: int | None = None
    """Letters of a sequence; what the model was trained for, and an error for anything else."""
    unique: bool = False
    """Leave out sequences that were drawn before."""
    out: Path = Path("sequences.fasta")
    """The FASTA file to write; gzipped where it ends in .gz."""

    def run(self) -> None:
        from degauss.bio.sequences import Record

        check_range("n", self.n, 1)
        check_fasta(self.out)
        opened = self.opened()
        if self.length not in (None, opened.model.length):
            raise InputError(
                f"length is {self.length}, but the model {self.model!r} was trained for {opened.model.length} letters."
            )
        drawn = self.drawn(opened, range(self.n), self.out)
        first = {one.sequence: one for one in reversed(drawn)}
        kept = [one for one in drawn if not self.unique or first[one.sequence] is one]
        records = [Record(f"sequence_{one.sample + 1}", one.sequence, "", self.labels_of(opened, one)) for one in kept]
        self.write(self.out, records, opened, drawn, {"drawn": self.n, "different": len(first)})
        each = sum(one.evaluations for one in drawn) / self.n
        print(
            f"wrote {self.out}: {len(kept)} sequences, {len(first)} of {self.n} different, {each:.1f} evaluations each"
        )
