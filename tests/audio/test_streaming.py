"""Chunks: their arithmetic, that no number depends on how the sound comes in, and that memory is bounded."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from degauss.audio.streaming import Chunking, State, Stream, stream
from degauss.core import Noise
from degauss.core.checkpoint import load_tree, save_tree

CHUNKING = Chunking(step=50, fade=10, context=7)
FILTER = torch.tensor([0.1, -0.3, 0.5, 1.0, 0.2, -0.1, 0.4])


def sound(length: int) -> Tensor:
    return Noise(0, [0]).normal(torch.empty(1, length, dtype=torch.float64))[0] if length else torch.zeros(0)


def filtered(chunk: Tensor, number: int = 0) -> Tensor:
    """A network of a finite field: three samples to each side, and something that is not linear."""
    return torch.tanh(F.conv1d(chunk[None], FILTER.to(chunk)[None, None], padding=3)[0])


def keyed(chunk: Tensor, number: int) -> Tensor:
    """A process with randomness of its own, and statistics over the whole chunk."""
    fresh = Noise(3, [number]).normal(chunk[None])[0]
    return (chunk - chunk.mean()) / (1 + chunk.std(correction=0)) + fresh


def pieces(x: Tensor, sizes: list[int]) -> list[Tensor]:
    """x cut into blocks of these sizes, again and again."""
    blocks: list[Tensor] = []
    while len(x):
        size = sizes[len(blocks) % len(sizes)]
        blocks.append(x[:size])
        x = x[size:]
    return blocks


def whole(process, x: Tensor, sizes: list[int], chunking: Chunking = CHUNKING) -> Tensor:
    return torch.cat([*stream(process, chunking, pieces(x, sizes)), x[:0]])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.lists(st.integers(1, 130), min_size=1, max_size=4))
def test_the_blocks_that_come_in_change_nothing(length: int, sizes: list[int]) -> None:
    x = sound(length)
    once = whole(keyed, x, [max(1, length)])
    assert len(once) == length
    assert torch.equal(whole(keyed, x, sizes), once)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 300),
    step=st.integers(5, 90),
    share=st.floats(0, 1),
    context=st.integers(3, 30),
)
def test_a_finite_field_makes_it_the_whole_sound(length: int, step: int, share: float, context: int) -> None:
    """A context of the network's reach or more: chunks are invisible, wherever they lie."""
    chunking = Chunking(step, int(share * step), context)
    x = sound(length)
    torch.testing.assert_close(whole(filtered, x, [17], chunking), filtered(x), rtol=0, atol=1e-14)


def test_a_context_that_is_too_short_is_seen() -> None:
    x = sound(300)
    assert float((whole(filtered, x, [17], Chunking(50, 0, 2)) - filtered(x)).abs().max()) > 1e-2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 500))
def test_the_chunks_are_where_it_is_said(length: int) -> None:
    asked: list[tuple[int, int, int]] = []

    def process(chunk: Tensor, number: int) -> Tensor:
        asked.append((number, int(chunk[0]), len(chunk)))
        return chunk

    x = torch.arange(length, dtype=torch.float64)
    out = whole(process, x, [23])
    torch.testing.assert_close(out, x, rtol=1e-12, atol=0)
    expected = [
        (k, CHUNKING.begin(k), min(length, CHUNKING.end(k)) - CHUNKING.begin(k)) for k in range(CHUNKING.count(length))
    ]
    assert asked == (expected if length else [])
    assert all(size <= CHUNKING.size for _, _, size in asked)
    # Each sample is in some chunk, beside its context.
    assert not length or asked[-1][1] + asked[-1][2] == length


def test_neighbours_are_cross_faded() -> None:
    """A process that returns its number shows the weights: they rise evenly, and add to one."""
    out = whole(torch.full_like, sound(150), [40])
    assert torch.equal(out[:50], torch.zeros(50))
    torch.testing.assert_close(out[50:60], (torch.arange(10) + 0.5) / 10, check_dtype=False)
    assert torch.equal(out[60:100], torch.ones(40, dtype=out.dtype))


def test_a_stopped_stream_goes_on(tmp_path: Path) -> None:
    x, machine = sound(430), Stream(keyed, CHUNKING)
    state, first = machine.push(machine.start(), x[:201])
    save_tree(tmp_path, "state", state._asdict())
    again = State(**load_tree(tmp_path, "state"))
    state, second = Stream(keyed, CHUNKING).push(again, x[201:])
    assert torch.equal(torch.cat((first, second, machine.finish(state))), whole(keyed, x, [64]))
    assert len(first) == 150  # three chunks were whole


def test_memory_is_flat_in_length() -> None:
    """What a stream holds, and what is allocated on the way, for ten times the length."""

    def peak(length: int) -> tuple[int, int]:
        held = 0

        def blocks():
            for first in range(0, length, 100):
                yield torch.zeros(min(100, length - first))

        machine, count = Stream(lambda chunk, number: chunk, CHUNKING), 0
        state = machine.start()
        for block in blocks():
            state, settled = machine.push(state, block)
            held = max(held, state.buffer.untyped_storage().nbytes() + state.held.untyped_storage().nbytes())
            count += len(settled)
        assert count + len(machine.finish(state)) == length
        return held, count

    short, long = peak(2_000)[0], peak(20_000)[0]
    assert long == short <= 4 * (CHUNKING.size + 100 + CHUNKING.fade)


@pytest.mark.slow
def test_two_hours_in_the_memory_of_a_chunk() -> None:
    rate, seconds = 16_000, 7200
    chunking, block = Chunking.at(rate), torch.ones(rate * 10)
    tracemalloc.start()
    total, number, biggest = 0.0, 0, 0
    for settled in stream(lambda chunk, k: 0.5 * chunk, chunking, (block for _ in range(seconds // 10))):
        total += float(settled.double().sum())
        number += len(settled)
        biggest = max(biggest, len(settled))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == rate * seconds
    assert total == pytest.approx(0.5 * rate * seconds)
    assert biggest <= len(block) + chunking.size
    assert chunking.count(rate * seconds) == 2058
    assert peak < 10_000_000  # Python's own; tensors are bounded by the test above


def test_what_is_no_chunking_is_refused() -> None:
    for wrong in ((0, 0, 0), (5, 6, 0), (5, -1, 0), (5, 1, -1)):
        with pytest.raises(ValueError, match="expected step > 0"):
            Chunking(*wrong)
    with pytest.raises(ValueError, match="a process gave"):
        whole(lambda chunk, number: chunk[:-1], sound(100), [10])


def test_seconds_become_samples() -> None:
    assert Chunking.at(8000, 3.5, 0.25, 0.25) == Chunking(28_000, 2000, 2000)
    assert Chunking.at(8000).size == 34_000
