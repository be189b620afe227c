# pyright: basic
r"""Philox4x64-10 on CUDA: the words of ``degauss.core.philox`` bit for bit, and the normals made of them.

One lane of a program computes one block of the generator, four 64-bit words; the lanes' words are then put
side by side, so that the transform and the stores work on consecutive numbers. Ids that count up by one need
no table on the device; tables of other ids are copied there once and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

_LANES = 256
_SCALARS = ["seed", "sample_first", "draw_first", "purpose", "batch", "blocks", "size"]


@triton.jit
def _program_words(seed, sample_first, samples, draw_first, draws, purpose, batch, blocks, LANES: tl.constexpr):
    """The ``[4 LANES]`` consecutive words of this program."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    if samples is None:
        counter = sample_first.to(tl.int64) * blocks + lane
    else:
        row = lane // blocks
        counter = tl.load(samples + row, mask=row < batch, other=0) * blocks + lane % blocks
    draw = tl.program_id(1)
    if draws is None:
        draw = draw_first.to(tl.int64) + draw
    else:
        draw = tl.load(draws + draw)
    # numpy's generator counts before it produces, hence the 1.
    counter = (counter + 1).to(tl.uint64)
    zero = tl.zeros_like(counter)
    w0, w1, w2, w3 = tl.philox(
        seed.to(tl.int64),
        counter,
        zero + blocks.to(tl.uint64),
        zero + draw.to(tl.uint64),
        zero + purpose.to(tl.uint64),
    )
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit(do_not_specialize=_SCALARS)
def _words_kernel(out, seed, sample_first, samples, draw_first, draws, purpose, batch, blocks, LANES: tl.constexpr):
    """out: int64 ``[draws, batch, 4 blocks]``."""
    word = _program_words(seed, sample_first, samples, draw_first, draws, purpose, batch, blocks, LANES)
    at = tl.program_id(0) * 4 * LANES + tl.arange(0, 4 * LANES)
    count = batch * blocks * 4
    start = tl.program_id(1).to(tl.int64) * count
    tl.store(out + start + at, word.to(tl.int64, bitcast=True), mask=at < count)


@triton.jit(do_not_specialize=_SCALARS)
def _normals_kernel(
    out, seed, sample_first, samples, draw_first, draws, purpose, batch, blocks, size, LANES: tl.constexpr
):
    """out: float32 ``[draws, batch, size]``: the cosines of 4 blocks words in a row, then their sines."""
    word = _program_words(seed, sample_first, samples, draw_first, draws, purpose, batch, blocks, LANES)
    word = word.to(tl.int64, bitcast=True)
    uniform = ((word & 0x7FFFFFFF).to(tl.float32) + 0.5) * 4.656612873077393e-10  # 2^-31
    radius = tl.sqrt_rn(-2.0 * tl.log(uniform))
    angle = word.to(tl.float32) * 3.4061215800304056e-19  # pi 2^-63
    half = blocks * 4
    at = tl.program_id(0) * 4 * LANES + tl.arange(0, 4 * LANES)
    row = at // half
    place = at % half
    inside = row < batch
    start = (tl.program_id(1).to(tl.int64) * batch + row) * size
    tl.store(out + start + place, radius * tl.cos(angle), mask=inside & (place < size))
    tl.store(out + start + half + place, radius * tl.sin(angle), mask=inside & (half + place < size))


def words_cuda(
    seed: int, samples: Sequence[int], draws: Sequence[int], purpose: int, count: int, device: torch.device
) -> Tensor:
    """``philox.words`` on ``device``: int64 (the same 64 bits) ``[len(draws), len(samples), blocks * 4]``."""
    blocks = -(-count // 4)
    out = torch.empty(len(draws), len(samples), blocks * 4, dtype=torch.int64, device=device)
    _launch(_words_kernel, out, seed, samples, draws, purpose, blocks)
    return out


def normals_cuda(
    seed: int, samples: Sequence[int], draws: Sequence[int], purpose: int, size: int, device: torch.device
) -> Tensor:
    """``philox.normals`` on ``device``: float32 ``[len(draws), len(samples), size]``."""
    blocks = -(-size // 8)
    out = torch.empty(len(draws), len(samples), size, dtype=torch.float32, device=device)
    _launch(_normals_kernel, out, seed, samples, draws, purpose, blocks, size)
    return out


def _launch(
    kernel,
    out: Tensor,
    seed: int,
    samples: Sequence[int],
    draws: Sequence[int],
    purpose: int,
    blocks: int,
    *rest: int,
) -> None:
    if not out.numel():
        return
    batch = len(samples)
    if batch * blocks * 4 >= 1 << 31:
        raise ValueError(f"one draw of noise has at most 2^32 numbers, asked for {batch} events of {blocks * 8}")
    programs = (triton.cdiv(batch * blocks, _LANES), len(draws))
    sample_ids, draw_ids = _ids(samples, out.device), _ids(draws, out.device)
    with torch.cuda.device_of(out):
        kernel[programs](out, _signed(seed), *sample_ids, *draw_ids, purpose, batch, blocks, *rest, LANES=_LANES)


def _ids(ids: Sequence[int], device: torch.device) -> tuple[int, Tensor | None]:
    """(first, None) where ids count up by one, else (0, a table of them)."""
    if isinstance(ids, range) and ids.step == 1:
        return _signed(ids.start), None
    return _table(tuple(ids), device)


@lru_cache(maxsize=256)
def _table(ids: tuple[int, ...], device: torch.device) -> tuple[int, Tensor | None]:
    if all(b == a + 1 for a, b in pairwise(ids)):
        return _signed(ids[0]), None
    return 0, torch.tensor([_signed(i) for i in ids], dtype=torch.int64, device=device)


def _signed(value: int) -> int:
    """The int64 with the bits of value modulo 2^64, which is what a kernel's integer arguments hold."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
