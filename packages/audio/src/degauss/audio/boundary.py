r"""Where a shallow diffusion may start: three rules for the boundary K, from pairs of true and auxiliary mels.

Shallow diffusion (Liu et al. 2022, "DiffSinger: Singing Voice Synthesis via Shallow Diffusion Mechanism", section 3.2)
starts at step K of T from alpha M~ + sigma eps, M~ the auxiliary decoder's mel, in place of pure noise. K must be deep
enough in the noise that this and the same of the true mel M cannot be told apart, and no deeper, as time is lost.

**Margin** (section 3.3). The margin is |E BP(M_t, t) - E BP(M~_t, t)| for the classifier BP of ``boundary_net``, E over
the noise, the same for both. K of an utterance is the earliest t such that at 95 % of the steps in [t, T] the margin is
at most 0.4; K of a set is the mean of its utterances'. What is measured has noise in it, so the nearest decreasing
curve (isotonic regression) is given beside the raw one.

**Kullback-Leibler** (the authors' easier trick). Both sides are Gaussian, so that for each element of the mel

    KL(q(M_t) | q(M~_t)) = alpha^2 / (2 sigma^2) |M - M~|^2  <=  KL(q(M_T) | N(0, I)),

the mean over elements on both sides. The left side is a multiple of the SNR, so K is a time at a known log-SNR. The
mels in it are the *clean* ones. The public implementation subtracts two mels that were diffused with noise of their
own, which adds 2 sigma^2 to |alpha (M - M~)|^2; its left side never falls to the right one and K is always T. Another
trap: a schedule that ends in pure noise has 0 on the right side, which nothing reaches before T. Such a schedule is
granted `LEAST_KL`, about what the published one leaves.

**Sweep**. Shallow samples from each K on utterances that nothing was fitted to, scored against the recording. The
distance of the samples alone would be least for blurred ones, K = 0; the energy score (Gneiting and Raftery 2007)

    E |X - M| - E |X - X'| / 2,    X, X' two samples, |.| over the mels of a frame,

is least for samples that are distributed as the recordings are. The optimum is the smallest K that is not worse than
the best by more than one standard error, over utterances, of the difference.

**A start for each utterance.** At inference there is no truth. BP needs none: where it holds the diffused auxiliary mel
for a recording, as far as it can tell, that is deep enough. For even odds BP(M_t) is about 1 - BP(M~_t), so a margin of
0.4 is BP(M~_t) = 0.3, and `AdaptiveStart` takes the earliest t such that at 95 % of the steps in [t, T] BP is at least
that. The KL rule would need |M - M~|^2 of an utterance that was never recorded, which nothing here predicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.audio.boundary_net import Classifier, Pair, check_pairs
from degauss.core.errors import check_range
from degauss.core.noise import Noise
from degauss.core.schedule import Schedule

Array = NDArray[np.float64]

LIMIT, SHARE = 0.4, 0.95
# In nats an element. DiffSinger's published schedule leaves alpha^2 = 0.0465 at T, whose KL from N(0, I) is this for a
# mel of mean square 0.4 (units of -1 to 1).
LEAST_KL = 0.01

Rule = Literal["margin", "kl", "sweep"]
RULES: tuple[Rule, ...] = get_args(Rule)


def earliest(fine: NDArray[np.bool_], share: float = SHARE) -> NDArray[np.int64]:
    """The earliest step k of 1 to T such that a share of the steps k, ..., T is fine; T where there is none.

    ``fine``: whether each step is, ``[..., T]``, step k at index k - 1.
    """
    steps = fine.shape[-1]
    from_here = np.flip(np.cumsum(np.flip(fine, -1), -1), -1) / np.arange(steps, 0, -1)
    enough = from_here >= share
    return np.where(enough.any(-1), enough.argmax(-1) + 1, steps)


# --- margin -------------------------------------------------------------------------------------------------


class Margin(NamedTuple):
    """What the classifier says. ``each``: K of each utterance; ``step``: their mean, rounded.

    ``curve``: the mean margin of steps 1 to T; ``smooth``: the nearest decreasing curve.
    """

    step: int
    each: tuple[int, ...]
    curve: tuple[float, ...]
    smooth: tuple[float, ...]


def margin_rule(
    classify: Classifier, schedule: Schedule, pairs: Sequence[Pair], steps: int, *, draws: int = 2, seed: int = 0
) -> Margin:
    """The paper's rule on pairs that the classifier was not trained on; ``draws`` noises a step and utterance."""
    check_pairs(pairs)
    check_range("draws", draws, 1)
    found = np.empty((len(pairs), steps))
    for number, pair in enumerate(pairs):
        real, made = believed(classify, schedule, pair, steps, draws, seed, number)
        found[number] = np.abs(real - made)
    each = earliest(found <= LIMIT)
    curve = found.mean(0)
    return Margin(
        round(float(each.mean())),
        tuple(each.tolist()),
        tuple(curve.tolist()),
        tuple(decreasing(curve).tolist()),
    )


def believed(
    classify: Classifier,
    schedule: Schedule,
    mels: Sequence[Tensor],
    steps: int,
    draws: int,
    seed: int,
    number: int = 0,
    at_once: int = 64,
) -> Array:
    """BP of each mel ``[mels, frames]``, at each step, the mean over ``draws`` noises: ``[len(mels), steps]``.

    The mels have one shape and are diffused with the same noises, those of utterance ``number``. ``at_once``: diffused
    mels to hold in memory at a time.
    """
    times = torch.arange(1, steps + 1, dtype=torch.float64).repeat_interleave(draws) / steps
    out = np.empty((len(mels), len(times)))
    with torch.no_grad():
        for first in range(0, len(times), at_once):
            rows = range(first, min(first + at_once, len(times)))
            t = times[rows.start : rows.stop].to(mels[0].device)
            alpha, sigma = (scale.to(mels[0].dtype)[:, None, None] for scale in schedule(t))
            noise = Noise(seed, [number * len(times) + row for row in rows])
            eps = sigma * noise.normal(mels[0].new_empty(len(rows), *mels[0].shape))
            for which, mel in enumerate(mels):
                out[which, rows.start : rows.stop] = torch.sigmoid(classify(alpha * mel + eps, t)).double().cpu()
    return out.reshape(len(mels), steps, draws).mean(2)


def decreasing(curve: Array) -> Array:
    """The decreasing curve of least squared distance: isotonic regression by pooling adjacent violators.

    Ayer et al. 1955. Runs that rise are replaced by their mean until none is left.
    """
    means: list[float] = []
    sizes: list[int] = []
    for value in curve.tolist():
        means.append(value)
        sizes.append(1)
        while len(means) > 1 and means[-2] < means[-1]:
            size = sizes[-2] + sizes[-1]
            means[-2:] = [(means[-2] * sizes[-2] + means[-1] * sizes[-1]) / size]
            sizes[-2:] = [size]
    return np.repeat(means, sizes)


# --- Kullback-Leibler ---------------------------------------------------------------------------------------


class Divergence(NamedTuple):
    """What the KL rule says. ``step``: K of the set; ``each``: K of each utterance.

    ``distance``, ``energy``: the means over the elements of the set of (M - M~)^2 and of M^2. ``allowed``: the right
    side, in nats an element.
    """

    step: int
    each: tuple[int, ...]
    distance: float
    energy: float
    allowed: float


def kl_rule(schedule: Schedule, pairs: Sequence[Pair], steps: int) -> Divergence:
    """The rule for each utterance and for all elements of the set."""
    check_pairs(pairs)
    sizes = np.array([pair.truth.numel() for pair in pairs])
    distances = np.array([float((truth - auxiliary).double().square().mean()) for truth, auxiliary in pairs])
    energies = np.array([float(pair.truth.double().square().mean()) for pair in pairs])
    distance, energy = (float(np.average(values, weights=sizes)) for values in (distances, energies))
    each = [kl_step(schedule, steps, d, e) for d, e in zip(distances.tolist(), energies.tolist(), strict=True)]
    return Divergence(
        kl_step(schedule, steps, distance, energy), tuple(each), distance, energy, kl_allowed(schedule, energy)
    )


def kl_step(schedule: Schedule, steps: int, distance: float, energy: float) -> int:
    """K of 1 to ``steps`` where the mean squared distance and the mean square of the truth are these."""
    if distance == 0:
        return 1
    log_snr = math.log(2 * kl_allowed(schedule, energy) / distance)
    t = float(schedule.time(torch.tensor(log_snr, dtype=torch.float64)))
    # A time that is a step, up to rounding, is that step.
    return min(max(math.ceil(t * steps - 1e-9), 1), steps)


def kl_allowed(schedule: Schedule, energy: float) -> float:
    """KL(q(M_T) | N(0, I)) for each element of a mel of mean square ``energy``, in nats, at least `LEAST_KL`."""
    alpha, sigma = (float(scale) for scale in schedule(torch.ones((), dtype=torch.float64)))
    return max(0.5 * (alpha**2 * energy + sigma**2 - 1) - math.log(sigma), LEAST_KL)


# --- sweep --------------------------------------------------------------------------------------------------

Draw = Callable[[int, float, Sequence[int]], Tensor]
"""(utterance, t > 0 to start at, sample ids) -> shallow samples ``[len(ids), mels, frames]``, in model units."""


class Sweep(NamedTuple):
    """Scores against K. ``step``: the optimum of ``candidates``.

    ``scores``: the mean energy score at each candidate, model units, lower is better; ``errors``: the standard error,
    over utterances, of its difference from the best.
    """

    step: int
    candidates: tuple[int, ...]
    scores: tuple[float, ...]
    errors: tuple[float, ...]


def sweep_rule(
    draw: Draw,
    pairs: Sequence[Pair],
    steps: int,
    candidates: Sequence[int],
    *,
    draws: int = 2,
    report: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Score shallow samples from each candidate K of 0 (the auxiliary mel as it is) to ``steps``.

    ``draws`` >= 2 samples of each utterance. ``report`` is told (utterances done, of how many).
    """
    check_pairs(pairs)
    check_range("draws", draws, 2)
    for candidate in candidates:
        check_range("a candidate K", candidate, 0, steps)
    scores = np.empty((len(pairs), len(candidates)))
    for number, (truth, auxiliary) in enumerate(pairs):
        for column, step in enumerate(candidates):
            drawn = draw(number, step / steps, range(draws)) if step else auxiliary.expand(2, *auxiliary.shape)
            scores[number, column] = energy_score(drawn, truth)
        if report is not None:
            report(number + 1, len(pairs))
    best = int(scores.mean(0).argmin())
    worse = scores - scores[:, best, None]
    errors = worse.std(0, ddof=1) / math.sqrt(len(pairs)) if len(pairs) > 1 else np.zeros(len(candidates))
    step = min(step for step, mean, error in zip(candidates, worse.mean(0), errors, strict=True) if mean <= error)
    return Sweep(step, tuple(candidates), tuple(scores.mean(0).tolist()), tuple(errors.tolist()))


def energy_score(drawn: Tensor, truth: Tensor) -> float:
    """The energy score of samples ``[draws, mels, frames]`` against ``[mels, frames]``, the mean over frames.

    Distances are divided by the root of the number of mels. Needs two samples or more.
    """
    count, mels = drawn.shape[:2]
    to_truth = (drawn - truth).norm(dim=1).mean()
    apart = (drawn[:, None] - drawn[None]).norm(dim=2).mean(-1).sum() / (count * (count - 1))
    return float(to_truth - 0.5 * apart) / math.sqrt(mels)


# --- what is kept -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boundary:
    """K by each rule, of ``steps`` steps in all, and the rule that is used."""

    steps: int
    rule: Rule
    margin: Margin
    kl: Divergence
    sweep: Sweep

    @property
    def step(self) -> int:
        """K by the rule in use, from 1: a diffusion that starts nowhere is none."""
        found: dict[Rule, int] = {"margin": self.margin.step, "kl": self.kl.step, "sweep": self.sweep.step}
        return max(found[self.rule], 1)

    @property
    def t(self) -> float:
        """The time K / T to start at, in (0, 1]."""
        return self.step / self.steps


@dataclass(frozen=True)
class AdaptiveStart:
    """``(condition, auxiliary) -> t``: a start for each utterance, float64 ``[batch]`` on the host; see the module.

    ``draws``: noises a step, the same for every utterance, so that a start does not depend on the batch.
    """

    classify: Classifier
    schedule: Schedule
    steps: int
    draws: int = 2
    seed: int = 0

    def __call__(self, condition: Tensor | None, auxiliary: Tensor, /, lengths: Sequence[int] | None = None) -> Tensor:
        """``auxiliary`` ``[batch, mels, frames]``; ``lengths``: the frames of each where some are padded.

        ``condition`` is not asked: BP judges the mel alone, as the published one does.
        """
        del condition
        ends = [auxiliary.shape[2]] * len(auxiliary) if lengths is None else lengths
        mels = [mel[:, :end] for mel, end in zip(auxiliary, ends, strict=True)]
        parts = [believed(self.classify, self.schedule, [mel], self.steps, self.draws, self.seed) for mel in mels]
        starts = earliest(np.concatenate(parts) >= (1 - LIMIT) / 2)
        return torch.from_numpy(starts / self.steps)
