"""`degauss-bio design`: sequences that rewards like, under hard constraints."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import UseAppendAction, arg

from degauss.bio.commands.sampling_options import beside, check_fasta
from degauss.core.errors import InputError
from degauss.core.options import device_of, progress

if TYPE_CHECKING:
    from degauss.bio.design_report import Job
    from degauss.bio.sequences import Record


@dataclass(frozen=True, kw_only=True)
class Design:
    """Design sequences that rewards like and a model finds likely, ranked, no two alike.

    Written are a FASTA file, whose headers say where each design is from and what it scores; a table of the scores
    (.csv); and last, as the sign that all is there, a JSON file with the settings, what they cost, and what an
    independent check of the constraints found.

    Constraints hold in every design, whatever the method: sampling itself is constrained. Positions count from 1.
    Motifs are IUPAC letters or names of restriction enzymes, on either strand of DNA unless :+ or :- follows. Several
    are given one after the other (--forbid BsaI --forbid EcoRI) or with commas.

    Methods, for any reward: smc (particles that are resampled; of every group all different ones are designs), svdd
    (the best of several proposals, step by step), best-of-n. For rewards with gradients: cg (classifier guidance) and
    tds (smc whose steps are guided). cfg: classifier-free guidance by a class; rewards only rank. drakes: samples of a
    model that 'finetune' made; rewards only rank. Nothing is trained here.
    """

    model: str = "dna"
    """A model that ships with the package, by its name, or the folder of one that 'train' or 'finetune' wrote."""
    rewards: Annotated[UseAppendAction[tuple[str, ...]], arg(name="reward")]
    """Given once or more, and summed: NAME[:ARGUMENTS] or WEIGHT*NAME[:ARGUMENTS], such as activity:FOLDER,cell=HepG2,
    2*gc:.4-.6 or motif:TGASTCA,how=count."""
    held_out: str | None = None
    """A reward that is not optimised, and tells whether the others were gamed."""
    natural: Path | None = None
    """Natural sequences that its gains are measured from; samples of the model unless given."""
    method: Literal["smc", "tds", "svdd", "cfg", "cg", "best-of-n", "drakes"] = "smc"
    """How designs are searched for."""
    n: int = 16
    """How many different designs."""
    fix: UseAppendAction[tuple[str, ...]] = ()
    """Letters (or IUPAC classes) at a position, such as 12:TATAAA."""
    require: UseAppendAction[tuple[str, ...]] = ()
    """Motifs that each design has."""
    forbid: UseAppendAction[tuple[str, ...]] = ()
    """Motifs that no design has: GGTCTC, or BsaI."""
    gc: str | None = None
    """The share of G and C, such as .4-.6."""
    gc_window: UseAppendAction[tuple[str, ...]] = ()
    """The same in each window of so many bases, such as 50:.3-.7."""
    max_homopolymer: int | None = None
    """How often a letter may be repeated."""
    protein: str | None = None
    """The protein that is coded for, from the first base or from a position: 13:MKV*."""
    codon_table: str = "1"
    """The genetic code, by NCBI's number or name."""
    steps: int = 64
    """Sampling steps."""
    alpha: float = 1.0
    """Units of the reward that are worth a nat (smc, tds, svdd): smaller is greedier. svdd takes 0, always the best."""
    particles: int = 16
    """Rows of a group (smc, tds)."""
    proposals: int = 8
    """Proposals a step (svdd)."""
    draws: int = 16
    """Sequences of which each design is the best (best-of-n)."""
    scale: float | None = None
    """Strength of guidance by the reward's gradient (cg, tds); 1 / alpha unless given."""
    guidance_weight: float = 2.0
    """How much more like its class than the model's own samples of it (cfg)."""
    label: Annotated[str | None, arg(aliases=("--cell-type",))] = None
    """The class (the cell type) that the designs are to be of, where the model has classes."""
    seed: int = 0
    """Everything random follows from it."""
    tries: int = 20
    """At most so many times n sequences are drawn until n different ones are found."""
    batch_size: int = 64
    """Sequences that are drawn together; the result does not depend on it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model computes."""
    logo: bool = False
    """Draw the logo of the designs beside them (.png)."""
    out: Path = Path("designs.fasta")
    """The FASTA file to write; gzipped where it ends in .gz."""

    def run(self) -> None:
        from degauss.bio.design_report import report_of
        from degauss.bio.designing import search
        from degauss.bio.plots import sequence_logo
        from degauss.bio.rewards import total
        from degauss.bio.sequences import write_fasta
        from degauss.core.files import atomic_path, write_json

        check_fasta(self.out)
        table = beside(self.out, ".csv")
        if table.is_dir():
            raise InputError(f"{table}: is a directory; expected the name of a file to write.")
        job = self._job()
        lattice = job.constraints.lattice(job.model.length) if job.constraints.parts else None
        with progress("designs") as report:
            found = search(job.model, total(job.terms), job.settings, lattice, report)
        said = report_of(job, found)
        write_fasta(self.out, said.records)
        _write_table(table, said.records)
        if self.logo:
            title = f"{self.out.name}: {len(said.records)} designs"
            sequence_logo(beside(self.out, ".png"), found.tokens, job.model.alphabet, title)
        with atomic_path(beside(self.out, ".json")) as part:
            write_json(part, {"model": self.model, **said.facts})
        for warning in said.warnings:
            print(warning, file=sys.stderr)
        if len(said.records) < self.n:
            print(
                f"Warning: of {found.drawn} sequences that were drawn only {len(said.records)} are different: a larger "
                "--alpha, weaker guidance or looser constraints leave more room, and --tries more time.",
                file=sys.stderr,
            )
        print(
            f"wrote {self.out}: {len(said.records)} designs, rewards {found.designs[0].reward:.3g} to "
            f"{found.designs[-1].reward:.3g}, {found.reward_calls} reward calls, {found.evaluations} evaluations, "
            f"{found.seconds:.1f} s"
        )

    def _job(self) -> Job:
        """What the options ask for; `InputError` for what cannot be."""
        from degauss.bio.constraints import parse_constraints
        from degauss.bio.design_report import Job, read_natural
        from degauss.bio.designing import Settings, check_reward, finetuned
        from degauss.bio.model import SequenceModel, find_model, weights_hash
        from degauss.bio.rewards import parse_reward
        from degauss.bio.rewards.parsing import parse_term

        path = find_model(self.model)
        settings = Settings(
            method=self.method,
            n=self.n,
            steps=self.steps,
            alpha=self.alpha,
            particles=self.particles,
            proposals=self.proposals,
            draws=self.draws,
            scale=self.scale,
            weight=self.guidance_weight,
            label=finetuned(path, self.label) if self.method == "drakes" else self.label,
            seed=self.seed,
            tries=self.tries,
            batch=self.batch_size,
        )
        model = SequenceModel.load(path)
        constraints = parse_constraints(
            fix=self.fix,
            require=self.require,
            forbid=self.forbid,
            gc=self.gc,
            gc_window=self.gc_window,
            max_homopolymer=self.max_homopolymer,
            protein=self.protein,
            codon_table=self.codon_table,
            alphabet=model.alphabet,
        )
        terms = tuple(map(parse_term, self.rewards))
        held_out = None if self.held_out is None else parse_reward(self.held_out)
        if held_out is not None:
            check_reward(model, held_out)
        if self.natural is not None:
            read_natural(self.natural, model)
        elif held_out is not None and self.method == "drakes":
            raise InputError(
                "method drakes with held_out needs natural sequences (--natural): gains cannot be measured from the "
                "fine-tuned model's own samples."
            )
        model.network.to(device_of(self.device))
        return Job(model, weights_hash(path), settings, terms, constraints, held_out, self.natural)


def _write_table(path: Path, records: Sequence[Record]) -> None:
    """Records as a table: name, sequence, and a column for each label."""
    from degauss.core.files import atomic_path

    with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", "sequence", *records[0].labels])
        table.writerows([record.name, record.sequence, *record.labels.values()] for record in records)
