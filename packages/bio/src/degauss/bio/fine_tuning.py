r"""Fine-tuning a sequence model towards a reward: what `degauss-bio finetune` does.

    tuned = fit(base, reward, Tuning("drakes", alpha=0.3), training)         # written to training.out / "model"
    before, after = compare(base, tuned, reward, Tuning(...), n=128)

The aim of every method is the model p exp(r / alpha) / Z of the reward r and the pretrained model p: the largest
E[r] - alpha KL. ``drakes`` differentiates the reward along relaxed trajectories, ``path`` uses the score function of
hard ones, ``weighted`` is maximum likelihood on samples weighted by exp(r / alpha); the last two take any reward.

A reward that is made large can be made large for the wrong reason. ``compare`` therefore draws from both models, and
asks the pretrained one how likely all of them are; ``look`` finds the signs: samples that are less likely than before,
or likelier, as repeats are, or simpler, or alike.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from degauss.bio.design_report import numbers_only
from degauss.bio.designing import OnCpu, check_reward
from degauss.bio.hacking import Collapse, Scores, collapse
from degauss.bio.model import SequenceModel
from degauss.bio.rewards import Differentiable, Reward, evaluate
from degauss.core.cli import provenance
from degauss.core.errors import InputError, check_range
from degauss.core.files import atomic_path, read_json, write_json
from degauss.core.jump import FREE
from degauss.core.noise import Noise
from degauss.core.reward import Counted
from degauss.core.reward.drakes import Drakes, DrakesConfig
from degauss.core.reward.finetuning import Objective, finetune, reward_and_divergence
from degauss.core.reward.path_gradient import PathGradient
from degauss.core.reward.paths import draw_path
from degauss.core.reward.weighted import WeightedConfig, finetune_weighted
from degauss.core.train import TrainConfig

TuningName = Literal["drakes", "path", "weighted"]

_FIGURES = 64  # trajectories that the figures of metrics.jsonl are taken of
_AT_ONCE = 64
_MEASURED = 1 << 21  # keys the trajectories that a finished model is measured by
_PLAN = "plan.json"


@dataclass(frozen=True)
class Tuning:
    """What is aimed at, and how; `InputError` for a value out of its range.

    ``alpha``: units of the reward for a nat, >= 0 (> 0 where weighted). ``trajectory``: sampling steps of it.
    ``truncate``: how many of its last steps are differentiated, all unless given, and ``temperature``: of its
    Gumbel-softmax, both of DRAKES. ``pool``: sequences drawn and scored in each of ``rounds``, where weighted.
    """

    method: TuningName = "drakes"
    alpha: float = 1.0
    trajectory: int = 32
    truncate: int | None = None
    temperature: float = 1.0
    pool: int = 4096
    rounds: int = 1
    label: str | None = None

    def __post_init__(self) -> None:
        check_range("trajectory", self.trajectory, 1)
        check_range("alpha", self.alpha, 0)
        if self.truncate is not None:
            check_range("truncate", self.truncate, 1, self.trajectory)
        if not self.temperature > 0:
            raise InputError(f"temperature must be above 0, but is {self.temperature}.")
        self.weighted()

    def weighted(self) -> WeightedConfig | None:
        """The configuration of the weighted method, None for the others."""
        if self.method != "weighted":
            return None
        return WeightedConfig(self.alpha, self.pool, self.rounds, self.trajectory)


def fit(base: SequenceModel, reward: Reward, tuning: Tuning, training: TrainConfig) -> SequenceModel:
    """A fine-tuned copy of a model, written to ``training.out / "model"`` without a card; frozen, on the CPU.

    Stopped and called again it goes on where it stopped; what it was asked for lies in the directory, and `InputError`
    is raised where that was something else. The model itself is left as it is. Raises `InputError` for a reward that
    is not for this model or this method; see `degauss.core.train` for more.
    """
    check_tunable(base, reward, tuning)
    network = _bound(base, tuning.label, learning=True)
    template = torch.full((base.length,), FREE)
    asked = Counted(OnCpu(reward, reward.name), reward.name)
    if (weighted := tuning.weighted()) is not None:
        trained = finetune_weighted(network, base.process, template, asked, weighted, training)
    else:
        trained = finetune(
            network,
            _objective(base, reward, asked, tuning),
            base.process,
            template,
            training,
            figures=reward_and_divergence(base.process, asked, tuning.trajectory),
            figure_samples=_FIGURES,
        )
    weights = {name.removeprefix(_PREFIX): value for name, value in trained.weights.items()}
    base.save(training.out / "model", weights=weights)
    return SequenceModel.load(training.out / "model")


def _objective(base: SequenceModel, reward: Reward, asked: Counted, tuning: Tuning) -> Objective:
    if tuning.method == "path":
        return PathGradient(base.process, asked, tuning.alpha, tuning.trajectory, checkpointing=True)
    assert isinstance(reward, Differentiable)  # checked before
    soft = Counted(OnCpu(reward.soft, reward.name), reward.name)
    config = DrakesConfig(tuning.alpha, tuning.trajectory, tuning.truncate, tuning.temperature)
    return Drakes(base.process, soft, config)


class _Bound(nn.Module):
    """A network whose label is fixed."""

    def __init__(self, network: nn.Module, label: Tensor | None) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("label", label, persistent=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t, label=self.label)


_PREFIX = "network."


def _bound(model: SequenceModel, label: str | None, *, learning: bool) -> _Bound:
    """A copy of the model's network. One that learns has no dropout: its randomness would count as divergence."""
    network = copy.deepcopy(model.network).requires_grad_(learning)
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return _Bound(network, None if label is None else model.class_number(label)).eval()


# --- checks -------------------------------------------------------------------------------------------------


def check_tunable(base: SequenceModel, reward: Reward, tuning: Tuning) -> None:
    """`InputError` unless the reward is for the model's letters and length, and of the kind that the method takes."""
    check_reward(base, reward)
    if tuning.method == "drakes" and not isinstance(reward, Differentiable):
        raise InputError(
            f"method drakes differentiates the reward, which {reward.name} does not allow; path and weighted take any "
            "reward."
        )
    if tuning.label is not None:
        base.class_number(tuning.label)


def check_plan(out: Path, sha256: str, reward: Reward, tuning: Tuning) -> None:
    """Write down what a run is for, or raise `InputError` where its directory holds a run for something else.

    ``sha256``: of the weights that it starts with.
    """
    plan = {"model_sha256": sha256, "reward": reward.name, **asdict(tuning)}
    path = out / _PLAN
    if not path.exists():
        with atomic_path(path) as part:
            write_json(part, plan)
        return
    before = read_json(path)
    for name, value in plan.items():
        if before.get(name) != value:
            raise InputError(
                f"{out} holds a run with {name} = {before.get(name)}, but {name} = {value} is asked for: ask for the "
                "same or name another directory."
            )


# --- what came of it ----------------------------------------------------------------------------------------


class Sampled(NamedTuple):
    """Sequences of a model: ``tokens`` ``[n, length]``, and ``[n]`` float64 of each the reward, log p under the
    pretrained model (or its bound, in nats), and the divergence of its trajectory from the pretrained model (nats)."""

    tokens: Tensor
    rewards: Tensor
    log_prob: Tensor
    divergence: Tensor


def compare(
    base: SequenceModel,
    tuned: SequenceModel,
    reward: Reward,
    tuning: Tuning,
    *,
    n: int = 128,
    seed: int = 0,
) -> tuple[Sampled, Sampled]:
    """Samples of the pretrained and of the fine-tuned model, by the same noise.

    The mean divergence of the latter estimates the KL that was reached, that of trajectories, which is not below that
    of the sequences.
    """
    check_range("samples", n, 2)
    return _sampled(base, base, reward, tuning, n, seed), _sampled(base, tuned, reward, tuning, n, seed)


@torch.inference_mode()
def _sampled(base: SequenceModel, model: SequenceModel, reward: Reward, tuning: Tuning, n: int, seed: int) -> Sampled:
    own, reference = (_bound(one, tuning.label, learning=False) for one in (model, base))
    noise = Noise(seed, range(n)).fork(_MEASURED)
    parts: list[Sampled] = []
    for first in range(0, n, _AT_ONCE):
        rows = range(first, min(first + _AT_ONCE, n))
        start = torch.full((len(rows), base.length), base.process.mask, device=base.device)
        path = draw_path(own, reference, base.process, start, noise.take(rows), steps=tuning.trajectory)
        nats = base.log_prob_of(path.tokens, rows, label=tuning.label, seed=seed).nats
        tokens = path.tokens.cpu()
        apart = (path.log_prob - path.log_reference).cpu()
        parts.append(Sampled(tokens, evaluate(reward, tokens), nats, apart))
    return Sampled(*(torch.cat(column) for column in zip(*parts, strict=True)))


def card_of(
    model: str,
    sha256: str,
    reward: Reward,
    tuning: Tuning,
    training: TrainConfig,
    before: Sampled,
    after: Sampled,
    found: Collapse,
) -> dict[str, Any]:
    """What a fine-tuned model's ``card.json`` says: how it was made, and what came of it.

    ``model`` and ``sha256``: the one it was made of; ``found``: what `look` found.
    """
    root = len(after.rewards) ** 0.5
    card: dict[str, Any] = {
        "finetuned_from": {"model": model, "sha256": sha256},
        "reward": reward.name,
        **asdict(tuning),
        "steps": training.steps,
        "batch": training.batch_size,
        "lr": training.lr,
        "seed": training.seed,
        "reached": {
            "samples": len(after.rewards),
            "reward_before": float(before.rewards.mean()),
            "reward": float(after.rewards.mean()),
            "reward_error": float(after.rewards.std()) / root,
            "kl_nats": float(after.divergence.mean()),
            "kl_error": float(after.divergence.std()) / root,
        },
        "naturalness": {"log_prob_before": float(before.log_prob.median()), "log_prob": float(after.log_prob.median())}
        | asdict(found),
        "warnings": found.warnings,
        "provenance": provenance(),
    }
    return numbers_only(card)


def look(before: Sampled, after: Sampled, vocabulary: int) -> Collapse:
    """What the fine-tuned model's samples look like, with those of the model before in the place of nature."""
    likelihood = Scores(after.log_prob, before.log_prob)
    return collapse(after.tokens, before.tokens, vocabulary, likelihood)
