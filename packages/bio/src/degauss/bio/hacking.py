r"""Was a reward earned or gamed? The gap between the reward that was optimised and an oracle that was held out.

Both oracles score the designs and the same natural sequences. Each is put on one scale, standard deviations from the
median of natural sequences,

    z(s) = (s - median(natural)) / sd(natural),       gain = median z over the designs.

Two imperfect oracles of one activity agree only so far: on natural sequences the held-out one rises by rho (their
correlation) for each standard deviation of the reward. Designs should rise alike, so

    transfer = gain_held_out / (rho gain_reward)

is 1 where the held-out oracle believes in the designs as much as it believes in nature, and 0 where it sees nothing of
what the reward sees. At or below 0 the reward was *hacked*; below a half the *gap is open*. An optimiser that follows
the flaws of its reward looks best exactly when this number is worst.

The oracle is not the only witness. A collapsed generator writes repeats, which a model of DNA finds *likelier* than
DNA, so likelihood must lie in a band whose both ends count; and diversity and complexity are held against nature's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from degauss.bio import metrics

Verdict = Literal["transfers", "gap", "hacked", "no gain", "unknown"]

LEAST_GAIN = 0.5
"""Standard deviations of the reward below which there is nothing to judge."""
OPEN_GAP = 0.5
"""The transfer below which the gap is open."""
LEAST_AGREEMENT = 0.1
"""The correlation on natural sequences below which a held-out oracle is no witness."""
LEAST_DIVERSITY = 0.9
"""The share of nature's mean pair distance below which designs count as collapsed."""
MOST_OUTSIDE = 0.25
"""The share of designs beyond one end of a band of nature (a fortieth expected) from which it is said."""


class Scores(NamedTuple):
    """One oracle's scores of designs ``[n]`` and of natural sequences ``[m]``."""

    designs: Tensor
    natural: Tensor

    @property
    def gain(self) -> float:
        """The median of the designs in natural standard deviations from the natural median."""
        natural = self.natural.double()
        spread = float(natural.std(correction=0))
        if spread == 0:
            return math.nan
        return (float(self.designs.double().quantile(0.5)) - float(natural.quantile(0.5))) / spread


@dataclass(frozen=True)
class Gap:
    """How far the held-out oracle followed the reward.

    ``reward`` and ``held_out``: gains in natural standard deviations. ``agreement``: rho on natural sequences.
    ``transfer``: NaN where there is nothing to divide by. ``percentile``: of the held-out oracle, the median design's
    place among natural sequences, in [0, 1].
    """

    reward: float
    held_out: float
    agreement: float
    transfer: float
    percentile: float
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        rise = f"the reward rose by {self.reward:.1f} natural standard deviations and the held-out oracle by"
        rose = f"{rise} {self.held_out:.1f} (percentile {100 * self.percentile:.0f})"
        return {
            "transfers": f"The gain is real as far as the held-out oracle can tell: {rose}.",
            "gap": f"Warning: {rose}, less than half of what their agreement on natural sequences promises: part of "
            "the gain is the reward's own error.",
            "hacked": f"Warning: the reward was hacked: {rose}, so the held-out oracle sees no gain at all.",
            "no gain": f"There is no gain to judge: the reward rose by {self.reward:.1f} natural standard deviations.",
            "unknown": "The held-out oracle is no witness: on natural sequences it correlates with the reward by only "
            f"{self.agreement:.2f}.",
        }[self.verdict]


def gap(reward: Scores, held_out: Scores) -> Gap:
    """The gap between two oracles; ``natural`` of both must be the same sequences in the same order.

    Raises ValueError for score lists of unequal lengths.
    """
    for one, other in zip(reward, held_out, strict=True):
        if one.shape != other.shape:
            raise ValueError(
                f"both oracles must score the same sequences, got {tuple(one.shape)}, {tuple(other.shape)}"
            )
    agreement = metrics.pearson(reward.natural, held_out.natural)
    gains = reward.gain, held_out.gain
    place = float(metrics.percentile(held_out.designs, held_out.natural).quantile(0.5))
    promised = agreement * gains[0]
    transfer = gains[1] / promised if promised > 0 else math.nan
    return Gap(*gains, agreement, transfer, place, _verdict(gains[0], agreement, transfer))


def _verdict(gain: float, agreement: float, transfer: float) -> Verdict:
    if not agreement >= LEAST_AGREEMENT:  # a NaN is no agreement either
        return "unknown"
    if not gain >= LEAST_GAIN:
        return "no gain"
    if transfer <= 0:
        return "hacked"
    return "gap" if transfer < OPEN_GAP else "transfers"


@dataclass(frozen=True)
class Collapse:
    """What designs look like beside natural sequences, apart from any oracle of activity.

    ``pair_distance`` and ``natural_pair_distance``: shares of differing positions. ``simple``: the share of designs
    with less dinucleotide entropy than 97.5 % of natural sequences. ``too_unlikely``, ``too_likely``: the shares whose
    likelihood is below and above the middle 95 % of natural ones; NaN without a model.
    """

    pair_distance: float
    natural_pair_distance: float
    unique: float
    simple: float
    too_unlikely: float = math.nan
    too_likely: float = math.nan

    @property
    def warnings(self) -> list[str]:
        """A sentence for each thing that is wrong."""
        found: list[str] = []
        if self.pair_distance < LEAST_DIVERSITY * self.natural_pair_distance:
            found.append(
                f"Warning: the designs are alike: two of them differ at {100 * self.pair_distance:.0f} % of positions, "
                f"natural sequences at {100 * self.natural_pair_distance:.0f} %."
            )
        if self.unique < 1:
            found.append(f"Warning: only {100 * self.unique:.0f} % of the designs are different sequences.")
        if self.simple > MOST_OUTSIDE:
            found.append(
                f"Warning: {100 * self.simple:.0f} % of the designs are simpler than 97.5 % of natural sequences "
                "(entropy of dinucleotides): they may be repeats."
            )
        if self.too_likely > MOST_OUTSIDE:
            found.append(
                f"Warning: {100 * self.too_likely:.0f} % of the designs are likelier under the model than 97.5 % of "
                "natural sequences, as repeats are: high likelihood is no sign of naturalness."
            )
        if self.too_unlikely > MOST_OUTSIDE:
            found.append(
                f"Warning: {100 * self.too_unlikely:.0f} % of the designs are less likely under the model than 97.5 % "
                "of natural sequences."
            )
        return found


def collapse(tokens: Tensor, natural: Tensor, vocabulary: int, likelihood: Scores | None = None) -> Collapse:
    """Designs ``[n, L]`` beside natural sequences ``[m, L']``; ``likelihood``: log-probabilities in nats of both.

    The mean pair distance of natural sequences needs them to be of one length, not of that of the designs.
    """
    entropies = [metrics.dinucleotide_entropy(some, vocabulary) for some in (tokens, natural)]
    low, high = (math.nan, math.nan)
    if likelihood is not None:
        low, high = metrics.band(likelihood.natural).outside(likelihood.designs)
    return Collapse(
        metrics.pair_distance(tokens, vocabulary),
        metrics.pair_distance(natural, vocabulary),
        metrics.unique_share(tokens),
        metrics.band(entropies[1]).outside(entropies[0])[0],
        low,
        high,
    )


@dataclass(frozen=True)
class HackingReport:
    """The gap to each held-out oracle, by its name, and what the designs look like."""

    gaps: dict[str, Gap]
    collapse: Collapse

    @property
    def clean(self) -> bool:
        """Whether every held-out oracle follows and nothing has collapsed."""
        return not self.collapse.warnings and all(gap.verdict == "transfers" for gap in self.gaps.values())

    @property
    def sentences(self) -> list[str]:
        """What was found, a sentence each; those of oracles name them."""
        return [f"{name}: {gap.sentence}" for name, gap in self.gaps.items()] + self.collapse.warnings


def hacking_report(
    tokens: Tensor,
    natural: Tensor,
    vocabulary: int,
    reward: Scores,
    held_out: Sequence[tuple[str, Scores]],
    likelihood: Scores | None = None,
) -> HackingReport:
    """All of it for designs ``[n, L]`` against natural sequences ``[m, L']``."""
    gaps = {name: gap(reward, scores) for name, scores in held_out}
    return HackingReport(gaps, collapse(tokens, natural, vocabulary, likelihood))
