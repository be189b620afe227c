"""Rewards by name: ``NAME``, ``NAME:ARGUMENTS``, ``WEIGHT*NAME:ARGUMENTS``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points

from degauss.bio.rewards import activity
from degauss.bio.rewards.composition import GC, Homopolymer
from degauss.bio.rewards.fitness import FitnessReward
from degauss.bio.rewards.fold import Fold
from degauss.bio.rewards.motif import MotifReward
from degauss.bio.rewards.reward import Reward, Term, total
from degauss.bio.rewards.splice import Splice
from degauss.core.errors import InputError, near_miss

GROUP = "degauss.bio.rewards"
"""The entry-point group in which other packages announce rewards."""

Make = Callable[[str], Reward]
"""The text after the colon -> a reward."""

OWN: Mapping[str, Make] = {
    "activity": activity.from_text,
    "fitness": FitnessReward.from_text,
    "fold": Fold.from_text,
    "gc": GC.from_text,
    "homopolymer": Homopolymer.from_text,
    "motif": MotifReward.from_text,
    "splice": Splice.from_text,
}


def available() -> list[str]:
    """The names of all rewards, this package's and others', in order."""
    return sorted({*OWN, *(point.name for point in entry_points(group=GROUP))})


def parse_reward(text: str) -> Reward:
    """One reward; `InputError` for a name that there is not (it lists those there are), or arguments it refuses."""
    name, _, rest = text.strip().partition(":")
    return _maker(name)(rest)


def parse_rewards(texts: Sequence[str]) -> Reward:
    """The sum of rewards with their weights (1 unless given), each as ``0.5*gc:.4-.6``. Raises as `parse_reward`."""
    return total([parse_term(text) for text in texts])


def parse_term(text: str) -> Term:
    """A reward and its weight."""
    first, star, rest = text.partition("*")
    # A star inside the arguments is theirs: a weight stands before the name, and so before any colon.
    if not star or ":" in first:
        return Term(1.0, parse_reward(text))
    try:
        weight = float(first)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise InputError(f"reward {text}: its weight is {first.strip()!r}; expected a number, such as 0.5*{rest}.")
    return Term(weight, parse_reward(rest))


def _maker(name: str) -> Make:
    others = [point for point in entry_points(group=GROUP, name=name) if not point.value.startswith("degauss.bio.")]
    if name in OWN and others:
        raise InputError(f"reward {name!r} is also one of {others[0].value}: two of one name cannot be told apart.")
    if name in OWN:
        return OWN[name]
    if len(others) > 1:
        raise InputError(f"reward {name!r} is in {' and '.join(point.value for point in others)}: remove one of them.")
    if not others:
        known = available()
        raise InputError(f"there is no reward {name!r}{near_miss(name, known)}; there are {', '.join(known)}.")
    try:
        return others[0].load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"reward {name!r} of {others[0].value} cannot be loaded ({error}).") from None
