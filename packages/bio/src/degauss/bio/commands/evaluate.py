"""`degauss-bio evaluate`: a report on designs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, UseAppendAction, arg

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_file, progress

if TYPE_CHECKING:
    from degauss.bio.motifs import Motif


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judge designs beside natural sequences: was the reward earned, and are they varied, natural and new?

    Writes a page to read (.html, with its pictures inside) and all numbers (.json). An oracle that was held out from
    the optimisation is what tells a real gain from a hacked reward: train one on other data, or of another kind.
    """

    designs: Positional[Path]
    """Sequences of one length: FASTA, GenBank, a table or plain text."""
    natural: Path
    """Sequences of the kind that is wanted; of longer ones the middle is taken."""
    rewards: Annotated[UseAppendAction[tuple[str, ...]], arg(name="reward")]
    """What the designs were optimised for, as for 'design'; may be given again."""
    held_out: Annotated[UseAppendAction[tuple[str, ...]], arg(name="held-out")] = ()
    """An oracle that was not optimised, in the same words; may be given again."""
    motifs: Path | None = None
    """A collection of motifs (MEME, JASPAR, ...); JASPAR's consensus motifs unless given, where they are at hand."""
    model: Path | None = None
    """The model whose likelihood should be natural: a folder."""
    label: str | None = None
    """A class of the model."""
    draws: int = 32
    """States that the bound of a sequence's likelihood is averaged over."""
    out: Path = Path("report.html")
    """The page to write; the numbers go beside it."""

    def run(self) -> None:
        from degauss.bio.evaluation import Judges, evaluate_designs, like_designs
        from degauss.bio.model import SequenceModel
        from degauss.bio.report import write_report
        from degauss.bio.rewards import parse_reward, total
        from degauss.bio.rewards.parsing import parse_term
        from degauss.bio.sequences import read_sequences, tokens_of
        from degauss.core.cli import provenance

        check_file(self.out, (".html",))
        check_range("draws", self.draws, 2)
        if self.label is not None and self.model is None:
            raise InputError("--label names a class of a model; expected --model with it.")
        terms = [parse_term(text) for text in self.rewards]
        alphabet = total(terms).alphabet
        judges = Judges(
            terms,
            [parse_reward(text) for text in self.held_out],
            self._collection() if alphabet.name == "DNA" else (),
            None if self.model is None else SequenceModel.load(self.model),
            self.label,
            self.draws,
        )
        tokens = tokens_of(self.designs, read_sequences(self.designs), alphabet)
        known = [record.sequence for record in read_sequences(self.natural)]
        try:
            natural = like_designs(known, tokens.shape[1], alphabet)
        except InputError as error:
            raise InputError(f"{self.natural}: {error}") from None
        with progress("judging") as report:
            found = evaluate_designs(tokens, natural, judges, report)
        card = write_report(self.out, found, f"Designs of {self.designs.name}", {**self._facts(), **provenance()})
        for sentence in found.hacking.sentences:
            print(sentence)
        print(f"wrote {self.out} and {card}")

    def _collection(self) -> list[Motif]:
        from degauss.bio.datasets import motifs_path
        from degauss.bio.motifs import read_motifs

        if self.motifs is not None:
            return read_motifs(self.motifs)
        try:
            return read_motifs(motifs_path())
        except InputError:
            return []

    def _facts(self) -> dict[str, object]:
        from degauss.core.files import fingerprint

        return {
            "designs": str(self.designs),
            "designs_sha256": fingerprint(self.designs),
            "natural": str(self.natural),
            "natural_sha256": fingerprint(self.natural),
            "reward": list(self.rewards),
            "held_out": list(self.held_out),
            "model": None if self.model is None else str(self.model),
            "label": self.label,
        }
