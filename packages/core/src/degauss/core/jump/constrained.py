r"""Constraints that every sample meets: masked diffusion conditioned on a language of tokens (``automaton``).

A denoiser's posterior has independent positions, p(x_0 | x_t) = prod_l p_l(x_0^l). Given that x_0 is in the language A
of a lattice it is a Markov chain over the lattice's states: with

    beta_L(accepted) = 1,   beta_l(state) = sum_v p_l(v) beta_{l+1}(state after v),

beta_0(start) is Z(x_t) = P(x_0 in A | x_t), and a joint draw of x_0 given A goes from left to right with token v in
proportion to p_l(v) beta_{l+1}(state after v). All of it is exact, in O(S V) for the S states of the lattice.

**A step** from t to s draws x_0 from p(x_0 | x_t, A) jointly, and of this restores the positions that ancestral
sampling would restore: *when* a position is restored depends on no token. What is not restored yet is forgotten, but it
was there: every state on the way has a completion in A, and the last state is in A. This holds for any denoiser that
gives the tokens needed some probability, and for any number of steps, one included.

**Its weight.** Summed over what is forgotten, with R the positions restored and p the posterior of the step,

    q(x_s | x_t) = P(R) p(x_R) Z(x_s) / Z(x_t),      so      p(x_s | x_t) / q(x_s | x_t) = Z(x_t) / Z(x_s),

where Z(x_s) takes what is known at s as certain and all else from the same posterior. Along a path the product of
these is the importance weight of a sample: weighted samples have the law of ancestral sampling given A. Unweighted ones
have not quite: Z(x_t) foresees A with independent positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.ancestral import backward, path_of, rows_of, shares_of
from degauss.core.jump.automaton import Lattice
from degauss.core.jump.categorical import draw_weighted, is_symbol, uniforms
from degauss.core.jump.process import Solver
from degauss.core.jump.skipping import Agenda, agenda_of
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical

_AT_ONCE = 1 << 25  # numbers of float64 in the messages of as many rows as are worked on together


class Drawn(NamedTuple):
    """A joint draw given acceptance: tokens ``[batch, length]``, and log P(accepted) ``[batch]``.

    Where nothing accepted has any probability, or a probability is NaN, every token is V, which is none.
    """

    tokens: Tensor
    log_z: Tensor


def known(probabilities: Tensor, x: Tensor, mask: int) -> Tensor:
    """Token probabilities ``[batch, length, V]`` in which the tokens of x ``[batch, length]`` are certain."""
    return torch.where((x != mask)[..., None], is_symbol(x, probabilities.shape[-1]).double(), probabilities)


def log_acceptance(probabilities: Tensor, lattice: Lattice) -> Tensor:
    """log P(accepted) of independent positions ``[batch, length, V]``: float64 ``[batch]``, differentiable."""
    return torch.cat([_messages(rows, lattice).log_z for rows in _portions(probabilities, lattice)])


def accepted_marginals(probabilities: Tensor, lattice: Lattice) -> Tensor:
    """P(x_0^l = v | accepted), ``[batch, length, V]``; NaN where P(accepted) is 0.

    It is p_l(v) times the derivative of log P(accepted) by p_l(v).
    """
    with torch.inference_mode(False), torch.enable_grad():
        p = probabilities.detach().double().clone().requires_grad_()
        (slope,) = torch.autograd.grad(log_acceptance(p, lattice).sum(), p)
    return p.detach() * slope


def draw_accepted(probabilities: Tensor, lattice: Lattice, u: Tensor) -> Drawn:
    """A joint draw of independent positions ``[batch, length, V]`` given acceptance.

    ``u``: uniform numbers ``[batch, length]``. The lattice is on the device of the probabilities.
    """
    portions = _portions(probabilities, lattice)
    drawn = [_walk(rows, lattice, part) for rows, part in zip(portions, u.split(_rows(lattice)), strict=True)]
    return Drawn(torch.cat([part.tokens for part in drawn]), torch.cat([part.log_z for part in drawn]))


class _Messages(NamedTuple):
    """log beta_0(start) ``[batch]``, and beta at each place ``[S_l + 1, batch]`` up to a factor for each row."""

    log_z: Tensor
    beta: list[Tensor]


def _messages(p: Tensor, lattice: Lattice) -> _Messages:
    by_place = p.double().permute(1, 2, 0).contiguous()
    here = torch.tensor([[1.0], [0.0]], dtype=torch.float64, device=p.device).expand(2, len(p))
    log_scale = torch.zeros(len(p), dtype=torch.float64, device=p.device)
    beta = [here]
    for table, tokens in zip(reversed(lattice.tables), by_place.flip(0), strict=True):
        there = here
        # Acceptance may be rarer than the smallest float. So messages are taken relative to the largest of their place.
        top = there.detach().amax(0)
        top = torch.where(top == 0, 1.0, top)
        log_scale = log_scale + top.log()
        columns, chances = table.T.contiguous(), tokens / top
        here = chances[0] * there.index_select(0, columns[0])
        for token in range(1, len(chances)):
            here = torch.addcmul(here, chances[token], there.index_select(0, columns[token]))
        beta.append(here)
    return _Messages(beta[-1][0].log() + log_scale, beta[::-1])


def _walk(p: Tensor, lattice: Lattice, u: Tensor) -> Drawn:
    log_z, beta = _messages(p, lattice)
    rows = torch.arange(len(p), device=p.device)
    state = torch.zeros_like(rows)
    tokens: list[Tensor] = []
    for position, table in enumerate(lattice.tables):
        after = table[state]
        weights = p[:, position] * beta[position + 1][after, rows[:, None]]
        token = draw_weighted(weights, u[:, position])
        state = after.gather(1, token.clamp(max=p.shape[-1] - 1)[:, None])[:, 0]
        tokens.append(token)
    # A row that cannot be accepted has lost its way in the middle: what came before is no draw either.
    return Drawn(torch.stack(tokens, 1).masked_fill(~log_z.isfinite()[:, None], p.shape[-1]), log_z)


def _rows(lattice: Lattice) -> int:
    """How many rows are worked on together."""
    return max(1, _AT_ONCE // (lattice.states + lattice.length))


def _portions(probabilities: Tensor, lattice: Lattice) -> Iterator[Tensor]:
    yield from probabilities.split(_rows(lattice))


def check_lattice(lattice: Lattice, process: Absorbing, length: int) -> None:
    """Raise ValueError unless a lattice is about sequences of this process and length, `InputError` if it is empty."""
    if (lattice.length, lattice.vocabulary) != (length, process.vocabulary):
        raise ValueError(
            f"a lattice for {lattice.length} positions and {lattice.vocabulary} tokens cannot constrain "
            f"{length} positions of {process.vocabulary}"
        )
    if lattice.empty:
        raise InputError("the constraints leave no sequence: they contradict each other.")


class Carry(NamedTuple):
    """The shares of gone along the grid and its times, the lattice, on the device; the agenda once it is drawn."""

    shares: Tensor
    times: Tensor
    lattice: Lattice
    agenda: Agenda | None


@dataclass(frozen=True)
class Constrained:
    """Ancestral sampling given a lattice, evaluated only where a step restores something (``skipping``).

    Step i does the i-th event of every row, with draw i + 2 of the noise. Raises `InputError` before the first step
    where the tokens that are given leave a row no accepted completion. A row to whose completions the denoiser gives
    no probability at all keeps its masks, which ``sample_tokens`` refuses.
    """

    denoiser: Denoiser[Categorical]
    process: Absorbing
    lattice: Lattice

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        grid = backward(grid)
        check_lattice(self.lattice, self.process, x.shape[1])
        lattice = self.lattice.on(x.device)
        even = torch.ones(*x.shape, lattice.vocabulary, dtype=torch.float64, device=x.device) / lattice.vocabulary
        hopeless = log_acceptance(known(even, x, self.process.mask), lattice).isneginf()
        if bool(hopeless.any()):
            row = int(hopeless.nonzero()[0])
            raise InputError(f"the given tokens of sample {row} (from 0) leave no sequence that meets the constraints.")
        return Carry(shares_of(self.process, grid).to(x.device), grid.to(x.device), lattice, None)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        agenda = carry.agenda or self._agenda(carry, x, noise)
        if i < len(agenda.active):
            rows = agenda.rows[: agenda.active[i]]
            part = x[rows]
            logits = rows_of(self.denoiser, rows)(part, agenda.times[rows, i]).logits
            probabilities = known(torch.softmax(logits.double(), -1), part, self.process.mask)
            # Fresh numbers at each event: what is forgotten must not be told by what is restored later.
            u = uniforms(noise, x, i + 2)[rows]
            tokens = draw_accepted(probabilities, carry.lattice, u).tokens
            x = x.index_copy(0, rows, torch.where(agenda.event[rows] == i, tokens, part))
        return carry._replace(agenda=agenda), x

    def _agenda(self, carry: Carry, x: Tensor, noise: Noise) -> Agenda:
        path = path_of(noise, x)
        # Restored in the first step whose share is not above the level.
        step = torch.searchsorted(-carry.shares[1:], -path.level)
        return agenda_of(step, carry.times.__getitem__, x == self.process.mask, path.choice)


def constrained(lattice: Lattice) -> Solver[Absorbing]:
    """Ancestral sampling of absorbing corruption whose samples are all accepted by a lattice."""
    return partial(Constrained, lattice=lattice)
