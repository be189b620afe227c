r"""Sound of any length through a model that sees chunks, in bounded memory.

Chunk k covers the samples

    [k step - context,  k step + step + fade + context),

cut at the ends of the sound. What the model makes of the context is thrown away; over the first ``fade`` samples of
what is left, chunk k - 1 is cross-faded into chunk k, with weights that add to one.

**What is exact.** The places of the chunks depend on nothing but these three numbers, and a chunk's randomness on its
number k. So the result is the same, number for number, whatever the blocks are that the sound comes in, and whether a
run was stopped between two of them and went on from its `State`. It is also that of the whole sound at once if what a
model says of a sample depends on the sound within ``context`` of it alone. A network with normalisation over frames,
or attention, is not like that: for it the chunks are the definition of what is computed, and the cross-fade hides
that neighbours differ a little.

Memory is that of one chunk, whatever the length: two hours are as good as two seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Process = Callable[[Tensor, int], Tensor]
"""(a chunk ``[n]``, its number k) -> what becomes of it, ``[n]``."""


class State(NamedTuple):
    """Where a stream is: a checkpoint (``degauss.core.checkpoint.save_tree`` can write it).

    ``number``: of the next chunk. ``buffer``: the sound from where that chunk begins. ``held``: what the chunk before
    said of the samples that are to be cross-faded, ``[fade]``, or nothing before the first.
    """

    number: int
    buffer: Tensor
    held: Tensor


@dataclass(frozen=True)
class Chunking:
    """Where chunks lie, in samples; ValueError unless ``step`` >= ``fade`` >= 0, ``step`` > 0 and ``context`` >= 0."""

    step: int
    fade: int
    context: int

    def __post_init__(self) -> None:
        if not (self.step > 0 and 0 <= self.fade <= self.step and self.context >= 0):
            raise ValueError(f"expected step > 0, 0 <= fade <= step and context >= 0, got {self}")

    @classmethod
    def at(cls, rate: int, step: float = 3.5, fade: float = 0.25, context: float = 0.25) -> Chunking:
        """From seconds, at a rate in Hz."""
        return cls(round(step * rate), round(fade * rate), round(context * rate))

    @property
    def size(self) -> int:
        """Samples of the longest chunk: what bounds the memory."""
        return self.step + self.fade + 2 * self.context

    def count(self, length: int) -> int:
        """How many chunks a sound of ``length`` samples has."""
        return max(1, -(-(length - self.fade) // self.step))

    def begin(self, number: int) -> int:
        """The first sample of a chunk."""
        return max(0, number * self.step - self.context)

    def end(self, number: int) -> int:
        """One past the last sample of a chunk, in a sound that goes on."""
        return (number + 1) * self.step + self.fade + self.context


@dataclass(frozen=True)
class Stream:
    """A process and the chunks it is given. Frozen: what a run remembers is its `State`."""

    process: Process
    chunking: Chunking

    def start(self) -> State:
        """Before the first sample."""
        return State(0, torch.zeros(0), torch.zeros(0))

    def push(self, state: State, block: Tensor) -> tuple[State, Tensor]:
        """Take in samples ``[m]``, any number; gives those of the result that are settled, often none."""
        state = state._replace(buffer=torch.cat((state.buffer, block)))
        done: list[Tensor] = []
        while self.chunking.begin(state.number) + len(state.buffer) >= self.chunking.end(state.number):
            state, settled = self._advance(state)
            done.append(settled)
        return state, torch.cat(done) if done else block.new_zeros(0)

    def finish(self, state: State) -> Tensor:
        """The rest of the result, once there are no more samples; with it, as many came out as went in."""
        length = self.chunking.begin(state.number) + len(state.buffer)
        done: list[Tensor] = []
        while state.number < self.chunking.count(length):
            state, settled = self._advance(state)
            done.append(settled)
        # What the last chunk held back has nothing to be faded into.
        return torch.cat((*done, state.held))

    def _advance(self, state: State) -> tuple[State, Tensor]:
        """Process the next chunk of what is buffered."""
        chunking, number = self.chunking, state.number
        begin = chunking.begin(number)
        chunk = state.buffer[: chunking.end(number) - begin]
        made = self.process(chunk, number)
        if made.shape != chunk.shape:
            raise ValueError(f"a process gave {list(made.shape)} for a chunk {list(chunk.shape)}")
        kept = made[number * chunking.step - begin :][: chunking.step + chunking.fade]
        fade = min(len(state.held), len(kept))
        if fade:
            weight = _fade(chunking.fade, kept)[:fade]
            kept = torch.cat((torch.lerp(state.held[:fade], kept[:fade], weight), kept[fade:]))
        left = state.buffer[chunking.begin(number + 1) - begin :]
        # A copy: a view would keep the whole of what was pushed.
        return State(number + 1, left.clone(), kept[chunking.step :].clone()), kept[: chunking.step]


def stream(process: Process, chunking: Chunking, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """The result of a sound that comes in blocks ``[m]``, in blocks of its own; nothing for no sound."""
    machine = Stream(process, chunking)
    state = machine.start()
    for block in blocks:
        state, settled = machine.push(state, block)
        if len(settled):
            yield settled
    if state.number or len(state.buffer):
        yield machine.finish(state)


def _fade(length: int, like: Tensor) -> Tensor:
    """Weights ``[length]`` that rise evenly inside (0, 1)."""
    return (torch.arange(length, dtype=like.dtype, device=like.device) + 0.5) / length
