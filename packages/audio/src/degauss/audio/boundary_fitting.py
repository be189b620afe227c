"""Fitting the boundary of an acoustic model to recordings, and keeping it in the model's checkpoint.

The classifier is trained on some recordings; all three rules are asked about others. What is found lies beside the
weights as ``boundary.json`` and ``boundary.safetensors``, and K / T in the configuration of the model. The checkpoint's
folder is replaced as a whole, so a run that is killed leaves it as it was. A boundary belongs to the weights it was
fitted to; beside others it is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.audio.acoustic import BOUNDARY_FILES, AcousticModel
from degauss.audio.acoustic import KIND as ACOUSTIC
from degauss.audio.acoustic_data import Corpus, collate
from degauss.audio.boundary import (
    RULES,
    AdaptiveStart,
    Boundary,
    Divergence,
    Draw,
    Margin,
    Rule,
    Sweep,
    kl_rule,
    margin_rule,
    sweep_rule,
)
from degauss.audio.boundary_net import BoundaryConfig, BoundaryNet, Pair, fit_classifier
from degauss.audio.frontend import Batch
from degauss.audio.shallow import shallow
from degauss.core.checkpoint import (
    CONFIG,
    FORMAT_VERSION,
    WEIGHTS,
    load_weights,
    read_header,
    read_tensors,
    write_tensors,
)
from degauss.core.errors import InputError, check_option, check_range
from degauss.core.files import atomic_path, fingerprint, settled, write_json
from degauss.core.gaussian import dpmpp
from degauss.core.noise import Noise
from degauss.core.sampling import Solver
from degauss.core.train import TrainConfig

KIND = "degauss.audio/boundary"
RECORD, CLASSIFIER = BOUNDARY_FILES

Report = Callable[[int, int], None]


class Fitted(NamedTuple):
    """The rules' answers, and the classifier that gave one of them, frozen."""

    boundary: Boundary
    classifier: BoundaryNet

    def adaptive(self, model: AcousticModel) -> AdaptiveStart:
        """A start for each utterance of the model; the classifier goes to the model's device."""
        return AdaptiveStart(self.classifier.to(model.device), model.schedule, self.boundary.steps)


@dataclass(frozen=True)
class Sweeping:
    """How the sweep is made: K = 0, ``every``, 2 ``every``, ... T, ``draws`` samples each of ``utterances`` recordings.

    A run from t takes t ``evaluations`` steps of the solver, rounded, and at least one.
    """

    every: int = 10
    utterances: int = 8
    draws: int = 2
    evaluations: int = 25
    solver: Solver = field(default_factory=dpmpp)

    def __post_init__(self) -> None:
        for name in ("every", "utterances", "evaluations"):
            check_range(name, getattr(self, name), 1)
        check_range("draws", self.draws, 2)


# --- fitting ------------------------------------------------------------------------------------------------


@torch.no_grad()
def pairs_of(model: AcousticModel, corpus: Corpus) -> tuple[list[Pair], list[Tensor]]:
    """The true and the auxiliary mel of each recording, in model units, and the conditions ``[1, hidden, frames]``.

    Phones last and sound as they were recorded, so the two differ by blur alone. Raises `InputError` for a phone or a
    voice that the model does not know.
    """
    pairs: list[Pair] = []
    conditions: list[Tensor] = []
    for item in corpus.items:
        model.phone_numbers(item.phones)
        model.voice(item.voice)
        batch = Batch(*(part.to(model.device) for part in collate([item], model.config)))
        condition = model.condition(batch)
        pairs.append(Pair(model.network.scale(batch.mel)[0].cpu(), model.auxiliary(condition)[0].cpu()))
        conditions.append(condition)
    return pairs, conditions


def draws_of(model: AcousticModel, pairs: Sequence[Pair], conditions: Sequence[Tensor], sweeping: Sweeping) -> Draw:
    """Shallow samples of given utterances."""

    @torch.no_grad()
    def draw(number: int, t: float, samples: Sequence[int]) -> Tensor:
        condition = conditions[number].expand(len(samples), -1, -1)
        auxiliary = pairs[number].auxiliary.to(condition).expand(len(samples), -1, -1)
        return shallow(
            model.denoiser(condition),
            model.schedule,
            auxiliary,
            t,
            solver=sweeping.solver,
            steps=max(1, round(t * sweeping.evaluations)),
            noise=Noise(0, [number * sweeping.draws + sample for sample in samples]),
        ).cpu()

    return draw


def ask_rules(
    model: AcousticModel,
    classifier: BoundaryNet,
    corpus: Corpus,
    sweeping: Sweeping,
    *,
    rule: Rule = "margin",
    seed: int = 0,
    report: Report | None = None,
) -> Boundary:
    """What each rule says of recordings that the classifier was not trained on; ``report`` is told of the sweep."""
    check_option("rule", rule, RULES)
    steps = model.config.steps
    check_range("every", sweeping.every, 1, steps)
    pairs, conditions = pairs_of(model, corpus)
    few = pairs[: sweeping.utterances]
    candidates = sorted({*range(0, steps, sweeping.every), steps})
    return Boundary(
        steps,
        rule,
        margin_rule(classifier, model.schedule, pairs, steps, seed=seed),
        kl_rule(model.schedule, pairs, steps),
        sweep_rule(
            draws_of(model, few, conditions, sweeping), few, steps, candidates, draws=sweeping.draws, report=report
        ),
    )


def fit_boundary(
    model: AcousticModel,
    seen: Corpus,
    held_out: Corpus,
    settings: TrainConfig,
    sweeping: Sweeping | None = None,
    rule: Rule = "margin",
) -> Fitted:
    """Train the classifier on recordings and ask the rules about others. ``settings``: see `boundary_net.recipe`."""
    classifier = fit_classifier(pairs_of(model, seen)[0], model.schedule, settings, steps=model.config.steps)
    sweeping = Sweeping() if sweeping is None else sweeping
    return Fitted(ask_rules(model, classifier, held_out, sweeping, rule=rule, seed=settings.seed), classifier)


# --- keeping ------------------------------------------------------------------------------------------------


def save_boundary(checkpoint: str | Path, fitted: Fitted) -> None:
    """Add a boundary to the checkpoint of an acoustic model, in one piece; an older boundary there is replaced."""
    folder = settled(checkpoint)
    about = read_header(folder / CONFIG, ACOUSTIC)
    boundary, classifier = fitted
    about["config"]["facts"]["boundary"] = boundary.t
    record: dict[str, Any] = {
        "format": KIND,
        "format_version": FORMAT_VERSION,
        "fitted_to": fingerprint(folder / WEIGHTS),
        "classifier": asdict(classifier.config),
        "steps": boundary.steps,
        "rule": boundary.rule,
        "margin": boundary.margin._asdict(),
        "kl": boundary.kl._asdict(),
        "sweep": boundary.sweep._asdict(),
    }
    with atomic_path(checkpoint) as partial:
        shutil.copytree(folder, partial)
        write_json(partial / CONFIG, about)
        write_json(partial / RECORD, record)
        write_tensors(partial / CLASSIFIER, classifier.state_dict())


def load_boundary(checkpoint: str | Path) -> Fitted:
    """The boundary kept in a checkpoint; `InputError` if there is none, or if it belongs to other weights."""
    folder = settled(checkpoint)
    if not (folder / RECORD).exists():
        raise InputError(f"{checkpoint}: has no boundary; 'degauss-audio fit-boundary' fits one.")
    about = read_header(folder / RECORD, KIND)
    if about.get("fitted_to") != fingerprint(folder / WEIGHTS):
        raise InputError(f"{folder / RECORD}: was fitted to other weights than are there; fit it again.")
    try:
        boundary, config = _boundary(about), BoundaryConfig(**about["classifier"])
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{folder / RECORD}: is not the record of a boundary ({error!r}).") from None
    classifier = BoundaryNet(config)
    load_weights(classifier, read_tensors(folder / CLASSIFIER), folder / CLASSIFIER)
    return Fitted(boundary, classifier.eval().requires_grad_(False))


def _boundary(about: Mapping[str, Any]) -> Boundary:
    rule: Any = check_option("rule", about["rule"], RULES)
    margin, kl, sweep = (_tuples(about[part]) for part in ("margin", "kl", "sweep"))
    return Boundary(int(about["steps"]), rule, Margin(**margin), Divergence(**kl), Sweep(**sweep))


def _tuples(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in part.items()}
