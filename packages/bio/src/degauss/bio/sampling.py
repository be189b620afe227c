r"""Drawing sequences from a model, so that a run can be cut, resumed and repeated letter for letter.

Sequence i of a seed is the same whatever else is drawn with it: its noise is keyed by (seed, i). So a run is a list of
sample ids, drawn in batches, and what was drawn before an interruption need not be drawn again (`Journal`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from degauss.bio.model import SequenceModel
from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_range
from degauss.core.jump import (
    Absorbing,
    Nucleus,
    Solver,
    Tempered,
    ancestral,
    capped,
    confident,
    entropy_bounded,
    first_hitting,
    remasking,
    sample_tokens,
    skipping,
    tau_leaping,
)
from degauss.core.options import Report
from degauss.core.posterior import Categorical

SolverName = Literal[
    "ancestral", "skipping", "first-hitting", "tau-leaping", "confident", "entropy-bounded", "remasking"
]

_GAMMA = 1.0  # nats that restoring positions together may cost a step of the entropy-bounded solver
_REMASKED = 2.0  # a token is masked again with at most this over the number of steps

SOLVERS: Mapping[SolverName, Callable[[int], Solver[Absorbing]]] = {
    "ancestral": lambda steps: ancestral(),
    "skipping": lambda steps: skipping(),
    "first-hitting": lambda steps: first_hitting(),
    "tau-leaping": lambda steps: tau_leaping(),
    "confident": lambda steps: confident(),
    "entropy-bounded": lambda steps: entropy_bounded(_GAMMA),
    "remasking": lambda steps: remasking(capped(min(1.0, _REMASKED / steps))),
}
"""From a number of steps to the solver of a name."""


@dataclass(frozen=True)
class Sampling:
    """How sequences are drawn; `InputError` for a value out of its range.

    ``top_p`` keeps the most likely letters that make up this probability; 1 keeps all. First-hitting sampling always
    takes as many steps as a sequence has letters.
    """

    solver: SolverName = "skipping"
    steps: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    label: str | None = None
    guidance_weight: float = 0.0
    seed: int = 0
    scoring_draws: int = 32

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1)
        check_range("scoring_draws", self.scoring_draws, 2)
        check_range("seed", self.seed, 0)
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, but is {self.top_p}.")
        if not self.temperature > 0:
            raise InputError(f"temperature must be above 0, but is {self.temperature}.")
        if self.guidance_weight and self.label is None:
            raise InputError("guidance_weight needs a label: it says how much more like its class a sequence is to be.")


class Drawn(NamedTuple):
    """A sequence of a run: its sample id, letters, log p (or its bound) in nats, and the evaluations it took."""

    sample: int
    sequence: str
    log_prob: float
    evaluations: int


def denoiser_of(model: SequenceModel, sampling: Sampling) -> Denoiser[Categorical]:
    """What the solver asks: the model with its label, guided, at a temperature."""
    denoiser = model.denoiser(sampling.label)
    if sampling.guidance_weight:
        from degauss.core.reward.guidance import ClassifierFree

        denoiser = ClassifierFree(denoiser, model.denoiser(), sampling.guidance_weight)
    if sampling.temperature != 1:
        denoiser = Tempered(denoiser, sampling.temperature)
    return denoiser if sampling.top_p == 1 else Nucleus(denoiser, sampling.top_p)


def draw(
    model: SequenceModel, sampling: Sampling, samples: Sequence[int], templates: Tensor | None = None
) -> list[Drawn]:
    """Sequences of these sample ids, drawn together; ``templates`` ``[samples, length]`` say what is given."""
    count = len(samples)
    counted = _Counted(denoiser_of(model, sampling), torch.zeros(count, dtype=torch.long, device=model.device))
    steps = model.length if sampling.solver == "first-hitting" else sampling.steps
    with torch.inference_mode():
        tokens = sample_tokens(
            counted,
            model.process,
            (count, model.length),
            solver=SOLVERS[sampling.solver](steps),
            steps=steps,
            template=templates,
            seed=sampling.seed,
            samples=samples,
            cond={"row": torch.arange(count, device=model.device)},
            device=model.device,
        )
    nats = model.log_prob_of(
        tokens, samples, label=sampling.label, draws=sampling.scoring_draws, seed=sampling.seed
    ).nats
    columns = (model.alphabet.decode(tokens), nats.tolist(), counted.evaluations.tolist())
    return [Drawn(*values) for values in zip(samples, *columns, strict=True)]


@dataclass(frozen=True, eq=False)
class _Counted:
    """A denoiser that counts how often each row is asked about."""

    denoiser: Denoiser[Categorical]
    evaluations: Tensor

    def __call__(self, x: Tensor, t: Tensor, /, *, row: Tensor, **cond: Any) -> Categorical:
        self.evaluations.index_add_(0, row, torch.ones_like(row))
        return self.denoiser(x, t, **cond)


@dataclass(frozen=True)
class Journal:
    """What a run has drawn so far: lines beside its output that the same run reads when it is started again.

    ``plan``: everything that the sequences depend on; what another plan drew is not used.
    """

    out: Path
    plan: Mapping[str, Any]

    @property
    def path(self) -> Path:
        return self.out.with_name(f".{self.out.name}.partial")

    def begin(self) -> dict[int, Drawn]:
        """What is there already, by sample id."""
        found = self._read()
        lines = [json.dumps(self.plan), *(json.dumps(drawn) for drawn in found.values())]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return found

    def add(self, drawn: Sequence[Drawn]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{json.dumps(one)}\n" for one in drawn))

    def end(self) -> None:
        """Called when the output is written."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[int, Drawn]:
        found: dict[int, Drawn] = {}
        try:
            plan, *lines = self.path.read_text(encoding="utf-8").splitlines()
            if json.loads(plan) != json.loads(json.dumps(self.plan)):
                return {}
            for line in lines:
                drawn = Drawn(*cast("list[Any]", json.loads(line)))
                found[drawn.sample] = drawn
        except (OSError, ValueError, TypeError):
            pass  # no journal, or a last line that was cut short: what comes before it counts
        return found


def draw_all(
    model: SequenceModel,
    sampling: Sampling,
    samples: Sequence[int],
    journal: Journal,
    *,
    batch: int,
    report: Report,
    templates: Tensor | None = None,
) -> list[Drawn]:
    """Sequences of all sample ids, ``batch`` of them together, going on from what the journal has.

    ``report`` is told (sequences drawn, sequences in all). The journal's `end` is left to the caller.
    """
    found = journal.begin()
    waiting = [row for row, sample in enumerate(samples) if sample not in found]
    report(len(samples) - len(waiting), len(samples))
    for first in range(0, len(waiting), batch):
        rows = waiting[first : first + batch]
        part = None if templates is None else templates[rows]
        drawn = draw(model, sampling, [samples[row] for row in rows], part)
        journal.add(drawn)
        found |= {one.sample: one for one in drawn}
        report(len(samples) - len(waiting) + first + len(rows), len(samples))
    return [found[sample] for sample in samples]
