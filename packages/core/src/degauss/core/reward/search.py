r"""Designing sequences without training: one call for every method that spends evaluations instead.

With p the law of the sampler's own samples in so many steps and r a reward, most methods aim at the tilted law

    p*(x) = p(x) exp(r(x) / alpha) / Z,

which trades reward against staying likely: E[r] - alpha KL(. || p) is largest there. ``SMC`` reaches it with many
particles, weights and all; ``SVDD`` and ``BestOf`` are greedier and have laws of their own.

A method sees a ``Run``: the process, the reward, the state to start from, and three things to do,

    ``propose``   one random step from t_i to t_{i+1}, with its importance ratio (``proposal``),
    ``value``     what a state promises: the reward of completions of it, or its own reward once it is clean,
    ``follow``    take some rows of a state, with what is known about them,

so any proposal (guided, constrained) composes with any method. The denoiser's answer about a state is kept until the
next one: it serves the value of that state and the steps that lead on from it, and moves with the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import check_range
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.categorical import draw, uniforms
from degauss.core.jump.infill import FREE, check_template
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical
from degauss.core.reward.guidance import Guidance
from degauss.core.reward.proposal import Proposal, Proposed, Proposer, ancestral_proposal
from degauss.core.reward.reward import Counted, Reward, name_of


class Completion(Protocol):
    """Guesses of the clean sequence: posterior over ``[batch, length]`` -> tokens ``[guesses, batch, length]``.

    ``draw`` >= 0 numbers independent calls.
    """

    def __call__(self, posterior: Categorical, noise: Noise, draw: int, /) -> Tensor: ...


def most_likely(posterior: Categorical, noise: Noise, draw: int, /) -> Tensor:
    """One guess, each position's likeliest token."""
    del noise, draw
    return posterior.logits.argmax(-1)[None]


@dataclass(frozen=True)
class Drawn:
    """``guesses`` >= 1 draws from the posterior, positions independent. Raises `InputError` below 1."""

    guesses: int = 1

    def __post_init__(self) -> None:
        check_range("guesses", self.guesses, 1)

    def __call__(self, posterior: Categorical, noise: Noise, number: int, /) -> Tensor:
        like = posterior.logits[..., 0]
        first = number * self.guesses
        tokens = [draw(posterior.logits, uniforms(noise, like, first + i)) for i in range(self.guesses)]
        return torch.stack(tokens).clamp(max=posterior.logits.shape[-1] - 1)


@dataclass(eq=False)
class Remembered:
    """A denoiser that counts the rows it is asked about, and answers again for the state that it was asked about last.

    A state is recognised as an object: each belongs to one time, and is not written to.
    """

    denoiser: Denoiser[Categorical]
    rows: int = 0
    state: Tensor | None = None
    answer: Categorical | None = None

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        if self.answer is None or self.state is not x:
            self.state, self.answer = x, self.denoiser(x, t, **cond)
            self.rows += len(x)
        return self.answer

    def follow(self, x: Tensor, taken: Tensor, rows: Tensor) -> None:
        """What is known of x holds for ``taken`` = x[rows]."""
        if self.answer is not None and self.state is x:
            self.state, self.answer = taken, Categorical(self.answer.logits[rows])


@dataclass(frozen=True, eq=False)
class Run:
    """What a method works with.

    ``start``: ``[n, length]``, masks where nothing is given; ``times``: from 1 to 0; ``noise``: keyed by the sample
    ids of the n rows.
    """

    process: Absorbing
    reward: Counted
    start: Tensor
    times: tuple[float, ...]
    noise: Noise
    denoiser: Remembered
    guide: Remembered | None
    proposal: Proposal

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    def propose(self, x: Tensor, i: int, noise: Noise) -> Proposed:
        """From x at times[i] to times[i + 1]; ``noise``: of the rows of x."""
        proposed = self.proposal(x, self.times[i], self.times[i + 1], noise.fork(_STEPS), i)
        # A state of its own, also where nothing changed: what is remembered is remembered for one time.
        return proposed._replace(x=proposed.x.clone())

    def value(self, x: Tensor, i: int, noise: Noise, completion: Completion = most_likely) -> Tensor:
        """What x at times[i] promises, float64 ``[batch]``: the mean reward of its completions.

        At the last time it is the reward of x itself, which costs no evaluation. Raises FloatingPointError where a
        position of x has no token then.
        """
        if i == self.steps:
            self._check_clean(x)
            return self.reward(x).double()
        guesses = completion(self._about(self.denoiser, x, i), noise.fork(_COMPLETIONS), i)
        guesses = torch.where(x == self.process.mask, guesses, x)
        return self.reward(guesses.flatten(0, 1)).double().unflatten(0, guesses.shape[:2]).mean(0)

    def follow(self, x: Tensor, rows: Tensor) -> Tensor:
        """x[rows], ``rows`` integers ``[any]``."""
        taken = x[rows]
        self.denoiser.follow(x, taken, rows)
        if self.guide is not None:
            self.guide.follow(x, taken, rows)
        return taken

    def copied(self, x: Tensor, i: int, count: int) -> Tensor:
        """``count`` copies of each row of x at times[i] beside each other, asked about once."""
        self._about(self.guide or self.denoiser, x, i)
        return self.follow(x, torch.arange(len(x), device=x.device).repeat_interleave(count))

    def choices(self, x: Tensor, i: int, noise: Noise) -> Tensor:
        """Uniform numbers for what a method itself draws in step i, float64 ``[batch]``."""
        return uniforms(noise.fork(_CHOICES), x[:, 0], i)

    def _about(self, denoiser: Remembered, x: Tensor, i: int) -> Categorical:
        return denoiser(x, torch.full((), self.times[i], dtype=torch.float64, device=x.device))

    def _check_clean(self, x: Tensor) -> None:
        empty = int(((x < 0) | (x >= self.process.vocabulary)).sum())
        if empty:
            raise FloatingPointError(
                f"{empty} of {x.numel()} positions got no token: the denoiser's logits have NaN or +inf, "
                "or the proposal allows nothing that they leave"
            )


_STEPS, _COMPLETIONS, _CHOICES = range(3)


def copies(noise: Noise, count: int) -> Noise:
    """The randomness of ``count`` copies of each row, one row's copies beside each other."""
    return Noise(noise.seed, [sample * count + copy for sample in noise.samples for copy in range(count)])


class Found(NamedTuple):
    """What a method found: see ``Designed``."""

    tokens: Tensor
    rewards: Tensor
    survivors: Tensor
    log_weights: Tensor | None


class Method(Protocol):
    """A way to search; a frozen configuration that keeps nothing of a run."""

    def __call__(self, run: Run, /) -> Found: ...


class Designed(NamedTuple):
    """Designs, and what they cost.

    ``tokens``: int64 ``[n, length]``. ``rewards``: float64 ``[n]``. ``reward_calls``: sequences that the reward scored;
    ``gradients``: those at which it was differentiated, beside. ``evaluations``: rows that the denoiser was asked
    about. ``survivors``: how many of a group's rows after the first step have descendants among its designs,
    ``[groups]``; methods that treat rows alone have groups of one. ``log_weights``: float64 ``[n]`` or None; with
    them the designs are a weighted sample: for any function f,

        E[mean_j exp(log_weights_j) f(tokens_j)] = E_p[exp(r / alpha) f],

    so that the mean of exp(log_weights) is an unbiased estimate of Z.
    """

    tokens: Tensor
    rewards: Tensor
    reward_calls: int
    evaluations: int
    survivors: Tensor
    log_weights: Tensor | None
    gradients: int

    @property
    def distinct(self) -> int:
        """How many different sequences there are."""
        return len(self.tokens.unique(dim=0))


def design(
    denoiser: Denoiser[Categorical],
    process: Absorbing,
    shape: Sequence[int],
    reward: Reward,
    *,
    method: Method,
    steps: int,
    guidance: Guidance | None = None,
    proposal: Proposer = ancestral_proposal,
    template: Tensor | None = None,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> Designed:
    """Design sequences of ``shape`` = ``[n, length]`` that a reward likes and the model finds likely.

    ``denoiser``: of absorbing corruption, with its conditions bound in it: they must hold for any rows.
    ``method``: ``SMC(...)``, ``SVDD(...)`` or ``BestOf(...)``. ``guidance``: draw each step from the model guided by
    a reward's gradient; methods with weights correct for it (SMC with guidance is TDS, the best of one is plain
    classifier guidance). ``template``: tokens that are given, ``FREE`` elsewhere (``jump.infill``). ``samples``: the
    sample ids of the rows, 0, 1, ... unless given. Nothing is differentiated but the reward for guidance.

    Raises `InputError` for settings out of range and rewards that are not finite, and FloatingPointError where the
    denoiser's probabilities are no numbers.
    """
    check_range("steps", steps, 1)
    counted = Counted(reward, name_of(reward))
    remembered = Remembered(denoiser)
    guide, gradients = None, None
    if guidance is None:
        made = proposal(remembered, process)
    else:
        gradients = Counted(guidance.reward, name_of(guidance.reward))
        guide = Remembered(guidance.over(remembered, process, gradients))
        made = proposal(remembered, process, guide=guide)
    noise = Noise(seed, range(shape[0]) if samples is None else samples)
    start = process.start(torch.empty(*shape, device=device), noise)
    if template is not None:
        given = check_template(template, shape, process.vocabulary).to(start)
        start = torch.where(given == FREE, start, given)
    times = tuple(torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist())
    with torch.no_grad():
        found = method(Run(process, counted, start, times, noise, remembered, guide, made))
    return Designed(
        found.tokens,
        found.rewards,
        counted.calls,
        remembered.rows,
        found.survivors,
        found.log_weights,
        gradients.calls if gradients else 0,
    )
