"""`degauss-bio invfold`: new sequences for a backbone."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from tyro.conf import Positional, UseAppendAction, arg

from degauss.core.errors import InputError, check_range
from degauss.core.options import Report, check_file, device_of, progress

if TYPE_CHECKING:
    from torch import Tensor

    from degauss.bio.inverse_folding import InverseFolding, Redesign
    from degauss.bio.structures import Structure

_SUFFIXES = (".fasta", ".fa", ".faa")
# Residues in one batch: it bounds the memory (100 kB of activations each), and no sample depends on it.
_AT_ONCE = 4096
_GAMMA = 1.0  # nats, of entropy-bounded
_REMASKED = 1.0  # how often a residue is thought over, at most, of remasking


class Design(NamedTuple):
    """One sequence: its chains, its scores (nats a residue; lower is likelier), and the draws that gave it."""

    chains: dict[str, str]
    score: float
    global_score: float
    seq_recovery: float
    draws: tuple[int, ...] = ()

    @property
    def sequence(self) -> str:
        return "/".join(self.chains.values())


@dataclass(frozen=True, kw_only=True)
class Invfold:
    """Design sequences for the backbone of a structure with ProteinMPNN, by masked diffusion.

    The FASTA file begins with the sequence of the structure; the designs follow, the likeliest first and none twice, in
    ProteinMPNN's form. Chains are separated by '/'. Beside it goes a JSON file with all that the designs depend on.
    """

    structure: Positional[Path]
    """A PDB or mmCIF file, gzipped or not."""
    out: Path = Path("designs.fasta")
    """The FASTA file to write."""
    n: int = 8
    """How many sequences to draw; those that come out equal are written once."""
    temperature: float = 0.1
    """Below 1, likely amino acids become likelier."""
    chains: Annotated[UseAppendAction[tuple[str, ...]], arg(name="chain")] = ()
    """A chain to design, all unless given; the others are kept, and seen."""
    fix: UseAppendAction[tuple[str, ...]] = ()
    """Residues to keep, as the file numbers them: A:1-10,15 or B:52A; a chain by itself keeps all of it."""
    tie: UseAppendAction[tuple[str, ...]] = ()
    """Chains of a homomer that get one sequence: A,B,C."""
    omit: str = ""
    """Amino acids that no design may have, such as CM."""
    solver: Literal["skipping", "first-hitting", "confident", "entropy-bounded", "remasking"] = "skipping"
    """skipping: even steps, residues in random order; first-hitting: one residue a step, as published; confident and
    entropy-bounded: the surest residues first (likelier and less diverse); remasking: with second thoughts."""
    steps: int | None = None
    """Steps; one for every four residues unless given. First-hitting takes one a residue."""
    seed: int = 0
    """Everything random follows from it."""
    orders: int = 8
    """Orders of decoding over which a score is averaged."""
    weights: Path | None = None
    """Weights of ProteinMPNN as safetensors; those in the data folder (DEGAUSS_DATA) unless given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def run(self) -> None:
        import torch

        from degauss.bio.inverse_folding import inverse_folding
        from degauss.bio.proteinmpnn import load_proteinmpnn
        from degauss.bio.structures import read_structure

        check_file(self.out, _SUFFIXES)
        check_range("n", self.n, 1)
        check_range("orders", self.orders, 1)
        if not self.temperature > 0:
            raise InputError(f"temperature must be above 0, but is {self.temperature}.")
        device = device_of(self.device)
        problem = self._problem(read_structure(self.structure))
        steps = self._steps(problem.places)
        weights = _weights(self.weights)
        with torch.inference_mode():
            model = inverse_folding(load_proteinmpnn(weights), problem, self.seed, device)
            with progress("steps") as report:
                letters = self._drawn(model, problem, steps, report)
            designs = self._ranked(model, problem, letters)
            native = self._scored(model, problem, problem.native()[None].to(device))[0]
        self._write(problem, native, designs, weights, steps)
        self._say(problem, native, designs)

    def _problem(self, structure: Structure) -> Redesign:
        """What is designed. `InputError` for chains or residues that are not there, or that contradict each other."""
        import torch

        from degauss.bio.inverse_folding import redesign
        from degauss.bio.structures import select

        structure.check_chains(self.chains)
        fixed = select(structure, self.fix)
        if self.chains:
            fixed |= torch.tensor([residue.chain not in self.chains for residue in structure.ids])
        return redesign(structure, fixed, [group for word in self.tie for group in _tied(structure, word)], self.omit)

    def _steps(self, places: int) -> int:
        if self.solver == "first-hitting":
            if self.steps not in (None, places):
                raise InputError(f"first-hitting takes a step a residue, here {places}, but steps is {self.steps}.")
            return places
        if self.steps is not None:
            check_range("steps", self.steps, 1)
            return self.steps
        # Entropy-bounded: as many as it may need; it stops asking when all is decided.
        return places if self.solver == "entropy-bounded" else -(-places // 4)

    def _drawn(self, model: InverseFolding, problem: Redesign, steps: int, report: Report) -> Tensor:
        """Whole sequences, ``[n, length]``, in batches of bounded size."""
        import torch

        each = _rows(problem)
        batches = [range(first, min(self.n, first + each)) for first in range(0, self.n, each)]
        found: list[Tensor] = []
        for number, samples in enumerate(batches):

            def tell(event: Any, done: int = number * steps) -> None:
                report(done + event.i + 1, len(batches) * steps)

            found.append(problem.letters(self._tokens(model, samples, steps, tell)))
        return torch.cat(found)

    def _tokens(self, model: InverseFolding, samples: range, steps: int, tell: Any) -> Tensor:
        from degauss.bio.decoding import decode, on_grid, one_by_one
        from degauss.bio.inverse_folding import PROCESS, reveal_ranks
        from degauss.core.jump import Tempered, capped, confident, entropy_bounded, remasking, sample_tokens

        if self.solver in ("skipping", "first-hitting"):
            when = on_grid if self.solver == "skipping" else one_by_one
            observe = (tell,)
            return decode(
                model, samples, steps, temperature=self.temperature, when=when, seed=self.seed, observe=observe
            )
        if self.solver == "confident":
            solver = confident()
        elif self.solver == "entropy-bounded":
            solver = entropy_bounded(_GAMMA)
        else:
            solver = remasking(capped(_REMASKED / steps))
        shape, place = (len(samples), len(model.ranks)), model.place.device
        return sample_tokens(
            Tempered(model, self.temperature),
            PROCESS,
            shape,
            solver=solver,
            steps=steps,
            seed=self.seed,
            samples=samples,
            cond={"ranks": reveal_ranks(self.seed, shape, samples).to(place)},
            observe=(tell,),
            device=place,
        )

    def _ranked(self, model: InverseFolding, problem: Redesign, letters: Tensor) -> list[Design]:
        """The sequences that differ, the likeliest first."""
        different, which = letters.unique(dim=0, return_inverse=True)
        draws = [tuple((which == row).nonzero()[:, 0].tolist()) for row in range(len(different))]
        scored = self._scored(model, problem, different)
        designs = [one._replace(draws=of) for one, of in zip(scored, draws, strict=True)]
        return sorted(designs, key=lambda one: (one.score, one.draws))

    def _scored(self, model: InverseFolding, problem: Redesign, letters: Tensor) -> list[Design]:
        from degauss.bio.inverse_folding import score

        designs: list[Design] = []
        for part in letters.split(_rows(problem)):
            scores, recovery = score(model, part, self.orders), problem.recovery(part).tolist()
            chains = [problem.chain_sequences(one) for one in part]
            values = zip(chains, scores.designed.tolist(), scores.all.tolist(), recovery, strict=True)
            designs += [Design(*one) for one in values]
        return designs

    def _write(self, problem: Redesign, native: Design, designs: list[Design], weights: Path, steps: int) -> None:
        from degauss.core.cli import provenance
        from degauss.core.files import atomic_path, fingerprint, write_json

        structure = problem.structure
        kept = [chain for chain in structure.chains if chain not in native.chains]
        head = (
            f">{structure.name}, score={native.score:.4f}, global_score={native.global_score:.4f}, "
            f"fixed_chains={kept}, designed_chains={list(native.chains)}, model_name={weights.stem}, seed={self.seed}"
        )
        lines = [head, native.sequence]
        for sample, one in enumerate(designs, 1):
            lines.append(
                f">T={self.temperature:g}, sample={sample}, score={one.score:.4f}, "
                f"global_score={one.global_score:.4f}, seq_recovery={one.seq_recovery:.4f}"
            )
            lines.append(one.sequence)
        about = {
            "structure": self.structure.name,
            "structure_sha256": fingerprint(self.structure),
            "weights": weights.name,
            "weights_sha256": fingerprint(weights),
            "settings": {
                "n": self.n,
                "temperature": self.temperature,
                "chains": list(native.chains),
                "fix": list(self.fix),
                "tie": list(self.tie),
                "omit": problem.omit,
                "solver": self.solver,
                "steps": steps,
                "seed": self.seed,
                "orders": self.orders,
            },
            "designed_residues": _named(structure, problem.designed),
            "incomplete_residues": _named(structure, ~structure.complete),
            "native": _plain(native),
            "designs": [_plain(one) for one in designs],
            **provenance(),
        }
        with atomic_path(self.out.with_suffix(".json")) as part:
            write_json(part, about)
        with atomic_path(self.out) as part:
            part.write_text("\n".join(lines) + "\n", encoding="ascii")

    def _say(self, problem: Redesign, native: Design, designs: list[Design]) -> None:
        lost = _named(problem.structure, ~problem.structure.complete)
        if lost:
            shown = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
            print(f"{self.structure}: residues without a whole backbone were kept: {shown}", file=sys.stderr)
        print(
            f"wrote {self.out}: {len(designs)} different sequences of {self.n} drawn; "
            f"score {designs[0].score:.3f} to {designs[-1].score:.3f} (structure: {native.score:.3f}), "
            f"recovery {sum(one.seq_recovery for one in designs) / len(designs):.3f}"
        )


def _rows(problem: Redesign) -> int:
    return max(1, _AT_ONCE // len(problem.structure))


def _tied(structure: Structure, word: str) -> list[tuple[int, ...]]:
    """The residues that chains ``A,B,C`` have at the same place of each. `InputError` unless the chains are alike."""
    names = [name.strip() for name in word.split(",")]
    structure.check_chains(names)
    if len(set(names)) < 2:
        raise InputError(f"tie is {word!r}; expected two chains or more, such as A,B.")
    members = [[row for row, residue in enumerate(structure.ids) if residue.chain == name] for name in names]
    for name, rows in zip(names, members, strict=True):
        if len(rows) != len(members[0]):
            raise InputError(
                f"{structure.name}: chains that are tied must be of one length, but {names[0]} has {len(members[0])} "
                f"residues and {name} has {len(rows)}."
            )
    return list(zip(*members, strict=True))


def _named(structure: Structure, rows: Tensor) -> list[str]:
    return [str(one) for one, chosen in zip(structure.ids, rows.tolist(), strict=True) if chosen]


def _plain(design: Design) -> dict[str, Any]:
    return {**design._asdict(), "draws": list(design.draws)}


def _weights(given: Path | None) -> Path:
    """The file of the weights. `InputError` that says how to get them where there are none."""
    from degauss.bio.datasets import proteinmpnn_path
    from degauss.bio.proteinmpnn import HOW_TO_GET

    if given is not None:
        if not given.is_file():
            raise InputError(f"{given}: does not exist; expected weights of ProteinMPNN as safetensors.")
        return given
    try:
        return proteinmpnn_path()
    except InputError as error:
        raise InputError(f"{error} Or name a file with --weights: {HOW_TO_GET}") from None
