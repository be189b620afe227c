"""What many tests need: a voice whose pitch is known, recordings where they are at hand, and a command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from degauss.audio import datasets
from degauss.audio.cli import PROGRAM
from degauss.audio.datasets import Digit, Syllable
from degauss.audio.synthetic import VOWELS, glide, vowel
from degauss.core.cli import Program


@pytest.fixture(scope="session")
def speech_f0() -> Tensor:
    """The pitch of `speech` at each of its 16000 samples: from 110 to 150 Hz."""
    return glide(110, 150, 16000)


@pytest.fixture(scope="session")
def speech(speech_f0: Tensor) -> Tensor:
    """One second of a voice at 16 kHz, ``[16000]``: it moves from "a" to "i", swells and fades; its peak is 0.5."""
    share = torch.linspace(0, 1, 16000, dtype=torch.float64)
    formants = torch.stack([a + (i - a) * share for a, i in zip(VOWELS["a"], VOWELS["i"], strict=True)])
    swell = (torch.minimum(share, 1 - share) * 10).clamp(0, 1).float()
    voice = vowel(formants, speech_f0, 16000) * swell
    return 0.5 * voice / voice.abs().max()


@pytest.fixture(scope="session")
def digits(or_skip: Callable[[Callable[[], list[Digit]]], list[Digit]]) -> list[Digit]:
    """The spoken digits, or a skip."""
    return or_skip(datasets.digits)


@pytest.fixture(scope="session")
def voicebank(or_skip: Callable[[Callable[[], list[Syllable]]], list[Syllable]]) -> list[Syllable]:
    """The sung syllables, or a skip."""
    return or_skip(datasets.voicebank)


@pytest.fixture
def examples() -> Path:
    return Path(__file__).parents[2] / "packages" / "audio" / "examples"


@pytest.fixture
def program() -> Program:
    return PROGRAM
