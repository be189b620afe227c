"""Philox4x64-10, the counter-based generator under all of Degauss's randomness (Salmon et al. 2011).

A value is a pure function of a 128-bit key and a 256-bit counter; nothing is stored. On the CPU numpy's
implementation produces the words, on CUDA a Triton kernel produces the same ones bit for bit, and any other
device gets a copy of the CPU's. What the counter's four words mean is decided here, once:

    word 0   sample * blocks + block      a block is four 64-bit words, ``blocks`` of them make one event
    word 1   blocks                       events of different lengths in blocks never share numbers
    word 2   draw                         which draw of this purpose: an interval's number, a tree node, ...
    word 3   purpose                      normal numbers, uniform numbers, Brownian paths

Consecutive samples are consecutive counters, so a whole batch is one call.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK_WORDS = 4
_WORD = 1 << 64
_NO_BUFFER = np.zeros(BLOCK_WORDS, dtype=np.uint64)


def words(
    seed: int, samples: Sequence[int], draws: Sequence[int], purpose: int, count: int
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Random words, uint64 ``[len(draws), len(samples), blocks * 4]`` with at least ``count`` columns."""
    blocks = -(-count // BLOCK_WORDS)
    key = np.array([seed % _WORD, 0], dtype=np.uint64)
    runs = [
        _stream(key, _counter(first, blocks, draw, purpose)).random_raw(length * blocks * BLOCK_WORDS)
        for draw in draws
        for first, length in _runs(samples)
    ]
    flat = runs[0] if len(runs) == 1 else np.concatenate(runs)
    return flat.reshape(len(draws), len(samples), blocks * BLOCK_WORDS)


class _Local(threading.local):
    """A thread's generator. Setting all of its state is ten times faster than making another."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(0)


_local = _Local()


def _stream(key: np.ndarray[Any, Any], counter: np.ndarray[Any, Any]) -> np.random.Philox:
    """The thread's generator, at a counter."""
    _local.philox.state = {
        "bit_generator": "Philox",
        "state": {"counter": counter, "key": key},
        "buffer": _NO_BUFFER,
        "buffer_pos": BLOCK_WORDS,  # nothing is left in the buffer
        "has_uint32": 0,
        "uinteger": 0,
    }
    return _local.philox


def _counter(sample: int, blocks: int, draw: int, purpose: int) -> np.ndarray[Any, Any]:
    return np.array([sample * blocks % _WORD, blocks, draw, purpose], dtype=np.uint64)


def _runs(samples: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Maximal runs of consecutive sample ids as (first, length)."""
    if isinstance(samples, range) and samples.step == 1:
        yield samples.start, len(samples)
        return
    first, length = next(iter(samples), 0), 0
    for sample in samples:
        if sample != first + length:
            yield first, length
            first, length = sample, 0
        length += 1
    yield first, length


@cache
def has_cuda_kernel() -> bool:
    """Whether CUDA tensors are filled by the Triton kernel rather than copied from the CPU."""
    return torch.cuda.is_available() and importlib.util.find_spec("triton") is not None


def normals(
    seed: int, samples: Sequence[int], draws: Sequence[int], purpose: int, size: int, device: torch.device
) -> Tensor:
    """Standard normals by the Box-Muller transform, float32 ``[len(draws), len(samples), size]``.

    One 64-bit word gives two: its low 31 bits the radius, its leading bits the angle. The second half of an
    event (padded to whole blocks) holds the sines that belong to the cosines of the first.
    """
    if device.type == "cuda" and has_cuda_kernel():
        from degauss.core.philox_triton import normals_cuda

        return normals_cuda(seed, samples, draws, purpose, size, device)
    # In numpy, whose single-precision logarithm, sine and cosine are twice as fast as torch's.
    raw = words(seed, samples, draws, purpose, -(-size // 2))
    out = np.empty((*raw.shape[:-1], 2, raw.shape[-1]), dtype=np.float32)
    radius = (raw & np.uint64(0x7FFFFFFF)).astype(np.uint32).astype(np.float32)
    radius += np.float32(0.5)
    radius *= np.float32(2.0**-31)
    np.log(radius, out=radius)
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    angle = raw.view(np.int64).astype(np.float32)
    angle *= np.float32(np.pi * 2.0**-63)
    np.multiply(np.cos(angle), radius, out=out[..., 0, :])
    np.multiply(np.sin(angle), radius, out=out[..., 1, :])
    return torch.from_numpy(out).flatten(-2)[..., :size].to(device)


def uniforms(
    seed: int,
    samples: Sequence[int],
    draw: int,
    purpose: int,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Uniform numbers strictly inside (0, 1), ``[len(samples), size]`` in ``dtype`` on ``device``.

    They are the middles of 2^bits equal intervals, with as many bits as the dtype holds without rounding to 0
    or 1 (52 in float64, 23 in float32, 7 in bfloat16); fewer bits are the leading ones of more.
    """
    bits = round(-math.log2(torch.finfo(dtype).eps))
    if device.type == "cuda" and has_cuda_kernel():
        from degauss.core.philox_triton import words_cuda

        raw = words_cuda(seed, samples, (draw,), purpose, size, device)
    else:
        raw = torch.from_numpy(words(seed, samples, (draw,), purpose, size).view(np.int64))
    # The shift of a signed word keeps its sign: the mask drops it.
    leading = (raw[0, :, :size] >> (64 - bits)) & ((1 << bits) - 1)
    return leading.to(torch.float64).add_(0.5).mul_(2.0**-bits).to(device, dtype)
