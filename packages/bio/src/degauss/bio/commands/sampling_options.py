"""Options that `generate` and `infill` share, and what both leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from tyro.conf import arg

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_file, device_of, progress

if TYPE_CHECKING:
    from torch import Tensor

    from degauss.bio.model import SequenceModel
    from degauss.bio.sampling import Drawn, Sampling
    from degauss.bio.sequences import Record

_HASH = 12


class Opened(NamedTuple):
    """A model on its device, the hash of its weights, and how it is sampled."""

    model: SequenceModel
    sha256: str
    sampling: Sampling


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Which model, and how sequences are drawn from it."""

    model: str = "dna"
    """A model that ships with the package, by its name, or the folder of one that 'train' wrote."""
    label: Annotated[str | None, arg(aliases=("--cell-type",))] = None
    """The class (the cell type) that the sequences are to be of, where the model has classes."""
    guidance_weight: float = 0.0
    """Classifier-free guidance: how much more like its class than the model's own samples of it; 0 for none."""
    solver: Literal[
        "ancestral", "skipping", "first-hitting", "tau-leaping", "confident", "entropy-bounded", "remasking"
    ] = "skipping"
    """How the reverse process is run. skipping is ancestral sampling without the evaluations that change nothing;
    first-hitting is exact, a letter at a time; confident and entropy-bounded put the surest letters first, which makes
    sequences likelier and less varied."""
    steps: int = 128
    """Steps of the solver; first-hitting takes one for each letter."""
    temperature: float = 1.0
    """Below 1 likely letters become likelier."""
    top_p: float = 1.0
    """Keep only the likeliest letters that together have this probability."""
    seed: int = 0
    """Everything random follows from it: sequence i of a seed is the same in every run."""
    batch_size: int = 64
    """Sequences that are drawn together; the result does not depend on it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    logo: bool = False
    """Draw the logo of the sequences beside them (.png)."""

    def opened(self) -> Opened:
        """What the options ask for; `InputError` for what cannot be."""
        from degauss.bio.model import SequenceModel, find_model, weights_hash
        from degauss.bio.sampling import Sampling

        check_range("batch_size", self.batch_size, 1)
        sampling = Sampling(
            self.solver, self.steps, self.temperature, self.top_p, self.label, self.guidance_weight, self.seed
        )
        path = find_model(self.model)
        model = SequenceModel.load(path)
        model.network.to(device_of(self.device))
        model.denoiser(self.label)  # an unknown label is found before anything is drawn
        return Opened(model, weights_hash(path), sampling)

    def drawn(self, opened: Opened, samples: Sequence[int], out: Path, templates: Tensor | None = None) -> list[Drawn]:
        """The sequences of these sample ids, going on from where a run for the same output stopped."""
        from dataclasses import asdict
        from hashlib import sha256

        from degauss.bio.sampling import Journal, draw_all

        given = None if templates is None else sha256(templates.numpy().tobytes()).hexdigest()
        plan = {**asdict(opened.sampling), "model_sha256": opened.sha256, "templates_sha256": given}
        with progress("sequences") as report:
            return draw_all(
                opened.model,
                opened.sampling,
                samples,
                Journal(out, plan),
                batch=self.batch_size,
                report=report,
                templates=templates,
            )

    def labels_of(self, opened: Opened, drawn: Drawn) -> dict[str, str]:
        """What a FASTA header says of a sequence."""
        label = {} if self.label is None else {"label": "_".join(self.label.split())}
        return {
            **label,
            "seed": str(self.seed),
            "sample": str(drawn.sample),
            "model": opened.sha256[:_HASH],
            "log_prob": f"{drawn.log_prob:.3f}",
        }

    def write(
        self, out: Path, records: Sequence[Record], opened: Opened, drawn: Sequence[Drawn], facts: dict[str, Any]
    ) -> None:
        """The FASTA file, its logo, and last, as the sign that all is there, its JSON; then the journal may go."""
        from dataclasses import asdict

        from degauss.bio.plots import sequence_logo
        from degauss.bio.sampling import Journal
        from degauss.bio.sequences import write_fasta
        from degauss.core.cli import provenance
        from degauss.core.files import atomic_path, write_json

        write_fasta(out, records)
        if self.logo:
            alphabet = opened.model.alphabet
            tokens = alphabet.encode([record.sequence for record in records])
            sequence_logo(beside(out, ".png"), tokens, alphabet, f"{out.name}: {len(records)} sequences")
        about = {
            "sequences": len(records),
            **facts,
            "model": self.model,
            "model_sha256": opened.sha256,
            **asdict(opened.sampling),
            "evaluations": sum(one.evaluations for one in drawn),
            "provenance": provenance(),
        }
        with atomic_path(beside(out, ".json")) as part:
            write_json(part, about)
        Journal(out, {}).end()


def check_fasta(out: Path) -> None:
    """`InputError` unless a FASTA file, and what goes beside it, can be written there."""
    check_file(out, (".fasta", ".fa", ".fna", ".faa", ".gz"))
    for path in (beside(out, ".json"), beside(out, ".png")):
        if path.is_dir():
            raise InputError(f"{path}: is a directory; expected the name of a file to write.")


def beside(out: Path, suffix: str) -> Path:
    """The file of another kind that goes with a FASTA file."""
    return out.with_name(out.name.removesuffix(".gz")).with_suffix(suffix)
