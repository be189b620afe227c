r"""Designing sequences: what `degauss-bio design` does, a method at a time.

    found = search(model, parse_rewards(["motif:WGATAR,how=occupancy"]), Settings("smc", n=16), lattice)
    found.designs[0].tokens                                      # [length], the best of 16 different ones

A method of ``degauss.core.reward`` draws rows, alone or in groups of particles, each known by its sample id. Designs
are the first n different rows in the order of their ids, ranked by reward afterwards, so that they depend on the seed
and not on how many rows were drawn together. Constraints are a lattice, and every step is drawn given it: whatever the
method, there is no row that does not meet them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from degauss.bio.model import SequenceModel
from degauss.bio.rewards import Differentiable, Reward
from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_option, check_range
from degauss.core.files import read_json
from degauss.core.jump.automaton import Lattice
from degauss.core.options import Report
from degauss.core.posterior import Categorical
from degauss.core.reward import (
    SMC,
    SVDD,
    BestOf,
    ClassifierFree,
    Designed,
    Guidance,
    Method,
    Proposer,
    ancestral_proposal,
    design,
)
from degauss.core.reward.constrained import constrained_proposal

MethodName = Literal["smc", "tds", "svdd", "cfg", "cg", "best-of-n", "drakes"]

CARD = "card.json"

GUIDED = ("tds", "cg")
"""Methods that differentiate the reward."""


@dataclass(frozen=True)
class Settings:
    """How designs are searched for; `InputError` for a value out of its range.

    ``alpha`` is in units of the reward; of SVDD it may be 0. ``scale``: of guidance by the reward's gradient,
    1 / alpha unless given. ``weight``: of classifier-free guidance. At most ``tries`` times n rows are drawn until n
    different ones are found; ``batch`` of them together.
    """

    method: MethodName = "smc"
    n: int = 16
    steps: int = 64
    alpha: float = 1.0
    particles: int = 16
    proposals: int = 8
    draws: int = 16
    scale: float | None = None
    weight: float = 2.0
    label: str | None = None
    seed: int = 0
    tries: int = 20
    batch: int = 64

    def __post_init__(self) -> None:
        check_option("method", self.method, get_args(MethodName))
        for name in ("n", "steps", "particles", "proposals", "draws", "tries", "batch"):
            check_range(name, getattr(self, name), 1)
        check_range("seed", self.seed, 0)
        if self.method == "cfg" and self.label is None:
            raise InputError("method cfg needs a label: it says which class the designs are to be more like.")
        if self.method in GUIDED and self.scale is None and not self.alpha > 0:
            raise InputError(f"alpha must be above 0, but is {self.alpha}.")

    @property
    def strength(self) -> float:
        """The scale of guidance that is in force."""
        return 1 / self.alpha if self.scale is None else self.scale


class Design(NamedTuple):
    """A design: its sample id, its tokens ``[length]`` and its reward."""

    sample: int
    tokens: Tensor
    reward: float


class Found(NamedTuple):
    """Different designs, the best first, and what they cost.

    ``drawn``: rows, of which the designs are the first that differ. ``survivors``: in the mean over groups, how many of
    a group's first particles have descendants; 1 where rows are drawn alone.
    """

    designs: list[Design]
    drawn: int
    reward_calls: int
    gradients: int
    evaluations: int
    survivors: float
    seconds: float

    @property
    def tokens(self) -> Tensor:
        """``[n, length]``, in the order of the designs."""
        return torch.stack([one.tokens for one in self.designs])


def search(
    model: SequenceModel,
    reward: Reward,
    settings: Settings,
    lattice: Lattice | None = None,
    report: Report = lambda done, total: None,
) -> Found:
    """Different sequences that the reward likes, that the model finds likely, and that the lattice accepts.

    There are fewer than n where ``tries`` n rows did not hold as many. Raises `InputError` for a reward that is not for
    this model or not for this method, that answers with no number, and where there are no n sequences to be found.
    """
    check_reward(model, reward)
    check_method(reward, settings.method)
    check_room(model, settings.n, lattice)
    way = _way(model, reward, settings)
    designs: dict[tuple[int, ...], Design] = {}
    costs: list[Designed] = []
    drawn, most = 0, way.group * math.ceil(settings.tries * settings.n / way.group)
    began = time.perf_counter()
    report(0, settings.n)
    while len(designs) < settings.n and drawn < most:
        wanted = settings.n - len(designs)
        if designs:  # as many more as it takes, if they are as different as those before
            wanted = math.ceil(wanted * drawn / len(designs))
        groups = math.ceil(min(settings.batch, wanted) / way.group)
        rows = range(drawn, min(most, drawn + groups * way.group))
        made = _draw(model, way, settings, rows, lattice)
        for one in _in_order(made, rows, way.group):
            if len(designs) < settings.n:
                designs.setdefault(tuple(one.tokens.tolist()), one)
        costs.append(made)
        drawn = rows.stop
        report(len(designs), settings.n)
    return Found(
        sorted(designs.values(), key=lambda one: (-one.reward, one.sample)),
        drawn,
        sum(cost.reward_calls for cost in costs),
        sum(cost.gradients for cost in costs),
        sum(cost.evaluations for cost in costs),
        float(torch.cat([cost.survivors for cost in costs]).double().mean()),
        time.perf_counter() - began,
    )


# --- methods ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Way:
    """A method as the core takes it. ``group``: rows that are one sample together."""

    denoiser: Denoiser[Categorical]
    reward: OnCpu
    method: Method
    guidance: Guidance | None = None
    group: int = 1


def _way(model: SequenceModel, reward: Reward, settings: Settings) -> _Way:
    plain = model.denoiser(settings.label)
    beside = OnCpu(reward, reward.name)
    alone = _Way(plain, beside, BestOf())
    match settings.method:
        case "smc" | "tds":
            method = SMC(settings.alpha, settings.particles)
            way = replace(alone, method=method, group=settings.particles)
        case "svdd":
            way = replace(alone, method=SVDD(settings.alpha, settings.proposals))
        case "best-of-n":
            way = replace(alone, method=BestOf(settings.draws))
        case "cfg":
            way = replace(alone, denoiser=ClassifierFree(plain, model.denoiser(), settings.weight))
        case "cg" | "drakes":
            way = alone
    if settings.method in GUIDED and isinstance(reward, Differentiable):
        way = replace(way, guidance=Guidance(OnCpu(reward.soft, reward.name), settings.strength))
    return way


def _draw(model: SequenceModel, way: _Way, settings: Settings, rows: range, lattice: Lattice | None) -> Designed:
    try:
        made = design(
            way.denoiser,
            model.process,
            (len(rows), model.length),
            way.reward,
            method=way.method,
            steps=settings.steps,
            guidance=way.guidance,
            proposal=_proposer(lattice),
            seed=settings.seed,
            samples=rows,
            device=model.device,
        )
    except FloatingPointError:
        # The weights are finite, so what was no number is a probability that guidance made too small for one.
        raise InputError(
            f"method {settings.method} left a sequence without a letter that has any probability; "
            "expected weaker guidance or a larger alpha."
        ) from None
    return made


def _proposer(lattice: Lattice | None) -> Proposer:
    return ancestral_proposal if lattice is None else partial(constrained_proposal, lattice=lattice)


def _in_order(made: Designed, rows: range, group: int) -> list[Design]:
    """The rows as designs in the order of their groups, and inside a group the best first."""
    columns = zip(rows, made.tokens.cpu(), made.rewards.tolist(), strict=True)
    designs = [Design(*values) for values in columns]
    return sorted(designs, key=lambda one: (one.sample // group, -one.reward, one.sample))


@dataclass(frozen=True)
class OnCpu:
    """A reward, or its soft form, asked on the CPU, where it was loaded, whatever device the sequences are on."""

    reward: Callable[[Tensor], Tensor]
    name: str

    def __call__(self, x: Tensor) -> Tensor:
        return self.reward(x.cpu()).to(x.device)


# --- checks -------------------------------------------------------------------------------------------------


def check_reward(model: SequenceModel, reward: Reward) -> None:
    """`InputError` unless the reward is for the model's letters and takes sequences of its length."""
    if reward.alphabet != model.alphabet:
        raise InputError(
            f"reward {reward.name} is for {reward.alphabet.name}, but the model is for {model.alphabet.name}."
        )
    with torch.no_grad():
        # What it says of one letter repeated is of no interest.
        reward(torch.zeros(1, model.length, dtype=torch.int64))


def check_method(reward: Reward, method: MethodName) -> None:
    """`InputError` unless the reward is of the kind that the method takes."""
    if method in GUIDED and not isinstance(reward, Differentiable):
        raise InputError(
            f"method {method} differentiates the reward, which {reward.name} does not allow; "
            "smc, svdd and best-of-n take any reward."
        )


def check_room(model: SequenceModel, n: int, lattice: Lattice | None) -> None:
    """`InputError` unless there are n different sequences."""
    most = model.length * math.log(model.alphabet.vocabulary) if lattice is None else lattice.log_count
    if most < math.log(n) - 1e-9:
        raise InputError(
            f"n is {n}, but there are only {round(math.exp(most))} different sequences of {model.length} letters"
            f"{'' if lattice is None else ' that meet the constraints'}."
        )


def finetuned(path: Path, label: str | None) -> str | None:
    """The label that a fine-tuned model was made for, if it is not another one that is asked for.

    Raises `InputError` for a model that was not fine-tuned, or for another label.
    """
    card: dict[str, Any] = read_json(path / CARD) if (path / CARD).exists() else {}
    if "finetuned_from" not in card:
        raise InputError(
            f"{path} was not fine-tuned, so method drakes has nothing to sample from: make a model with 'degauss-bio "
            "finetune', or name another method."
        )
    made_for = card.get("label")
    if label not in (None, made_for):
        raise InputError(f"{path} was fine-tuned for label {made_for}, but label is {label!r}.")
    return made_for
