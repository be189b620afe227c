"""`degauss-bio infill`: the free places of sequences, filled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from degauss.bio.commands.sampling_options import SamplingOptions, check_fasta
from degauss.core.errors import InputError, check_range

_APART = 1 << 20  # sample ids from one record to the next, so that they do not depend on --k


@dataclass(frozen=True, kw_only=True)
class Infill(SamplingOptions):
    """Fill in what is free: N or - in DNA, X or - in a protein. What is given stays.

    Each record is filled k times; the j-th filling of a record is the same for every k. Headers and the JSON beside the
    output are those of 'generate'; log_prob is of the whole sequence.
    """

    sequences: Positional[Path]
    """FASTA, GenBank, a table or plain text, of the length that the model was trained for."""
    k: int = 1
    """How often each record is filled."""
    out: Path = Path("filled.fasta")
    """The FASTA file to write; gzipped where it ends in .gz."""

    def run(self) -> None:
        from degauss.bio.sequences import Record, read_sequences, templates_of
        from degauss.core.files import fingerprint
        from degauss.core.jump import FREE

        check_range("k", self.k, 1, _APART)
        check_fasta(self.out)
        if self.out.resolve() == self.sequences.resolve():
            raise InputError(f"{self.out}: is the file of the sequences; expected another name to write to.")
        opened = self.opened()
        records = read_sequences(self.sequences)
        for record in records:
            if len(record.sequence) != opened.model.length:
                raise InputError(
                    f"{self.sequences}: record {record.name!r} has {len(record.sequence)} letters, but the model "
                    f"{self.model!r} was trained for {opened.model.length}."
                )
        templates = templates_of(self.sequences, records, opened.model.alphabet)
        for record, free in zip(records, (templates == FREE).any(1).tolist(), strict=True):
            if not free:
                place = f"{opened.model.alphabet.unknown} or - where it may be filled"
                raise InputError(f"{self.sequences}: record {record.name!r} has no free place; expected {place}.")
        samples = [row * _APART + j for row in range(len(records)) for j in range(self.k)]
        drawn = self.drawn(opened, samples, self.out, templates.repeat_interleave(self.k, 0))
        filled = [
            Record(
                f"{records[one.sample // _APART].name}_{one.sample % _APART + 1}",
                one.sequence,
                "",
                self.labels_of(opened, one),
            )
            for one in drawn
        ]
        facts = {"filled": str(self.sequences), "filled_sha256": fingerprint(self.sequences), "k": self.k}
        self.write(self.out, filled, opened, drawn, facts)
        each = sum(one.evaluations for one in drawn) / len(drawn)
        print(f"wrote {self.out}: {len(records)} records filled {self.k} times, {each:.1f} evaluations each")
