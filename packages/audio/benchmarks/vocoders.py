"""Vocoders side by side: what they lose of real speech and of sung tones, and how long they take.

    python packages/audio/benchmarks/vocoders.py [--checkpoint FOLDER] [--files N]

Copy synthesis of people that no vocoder was trained on (CMU ARCTIC, VoiceBank p287), each file by every vocoder in
turn: PESQ wide band (extra `metrics`), mean distance of log-mel spectra, median f0 error, share of frames whose voicing
changed, and CPU seconds of one thread for a second of sound. Then vowels sung with vibrato, whose f0 is known
exactly. "WORLD, true" analyses the recording itself: no mel spectrogram limits it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from pesq import pesq  # pyright: ignore[reportMissingImports]
from rich.console import Console
from rich.table import Table
from torch import Tensor

from degauss.audio import datasets, pitch, waves
from degauss.audio.metrics import f0_rmse
from degauss.audio.source_filter import SourceFilter, SourceFilterConfig
from degauss.audio.spectra import MelConfig, log_mel
from degauss.audio.synthetic import VOWELS, vibrato, vowel
from degauss.audio.vocoders import SHIPPED, GriffinLim, Neural, World, copy_errors, world_resynthesize

CONFIG = MelConfig()
Maker = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(wave, mel, f0) -> wave."""


def vocoders(checkpoint: Path | None) -> dict[str, Maker]:
    fast, slow, world, plain = GriffinLim(CONFIG), GriffinLim(CONFIG, 100), World(CONFIG), World(CONFIG, agreement=0)
    untrained = Neural(SourceFilter.new(SourceFilterConfig()))
    makers: dict[str, Maker] = {
        "Griffin-Lim, 32 steps": lambda x, mel, f0: fast(mel, f0),
        "Griffin-Lim, 100 steps": lambda x, mel, f0: slow(mel, f0),
        "WORLD from mel, no agreement": lambda x, mel, f0: plain(mel, f0),
        "WORLD from mel": lambda x, mel, f0: world(mel, f0),
        "WORLD, true": lambda x, mel, f0: world_resynthesize(x, CONFIG.rate),
        "neural, untrained": lambda x, mel, f0: untrained(mel, f0),
    }
    if checkpoint is not None:
        trained = Neural.load(checkpoint)
        makers["neural"] = lambda x, mel, f0: trained(mel, f0)
    return makers


def recordings(files: int) -> Iterator[tuple[str, Tensor]]:
    arctic = [path for name, path in datasets.samples().items() if name.startswith("cmu_arctic")]
    for name, paths in (("CMU ARCTIC", arctic), ("VoiceBank p287", [pair.clean for pair in datasets.noisy_pairs()])):
        for path in paths[:files]:
            x = waves.mono(waves.resample(waves.read(path), CONFIG.rate))
            yield name, x[: len(x) // CONFIG.hop * CONFIG.hop]


def measured(make: Maker, x: Tensor) -> tuple[float, ...]:
    mel, f0 = log_mel(x, CONFIG), pitch.f0(x, CONFIG.rate, CONFIG.hop)
    start = time.process_time()
    y = make(x, mel, f0)
    seconds = time.process_time() - start
    quality = float(pesq(CONFIG.rate, x.numpy(), y.numpy(), "wb"))
    return (quality, *copy_errors(mel, f0, y, CONFIG), seconds / (len(x) / CONFIG.rate))


def sung(make: Maker) -> float:
    """Root mean square error of f0 in cents over vowels sung from 110 to 660 Hz; the f0 is the true one."""
    found: list[float] = []
    for hz, formants in zip((110.0, 165.0, 220.0, 330.0, 440.0, 660.0), (*VOWELS.values(), VOWELS["a"]), strict=True):
        curve = vibrato(hz, 100 * CONFIG.hop, CONFIG.rate)
        x = 0.1 * vowel(formants, curve, CONFIG.rate)
        f0 = torch.cat([curve[:: CONFIG.hop], curve[-1:]])
        y = make(x, log_mel(x, CONFIG), f0)
        found.append(f0_rmse(f0[3:-3], pitch.f0(y, CONFIG.rate, CONFIG.hop)[3:-3]))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED if SHIPPED.is_dir() else None)
    parser.add_argument("--files", type=int, default=6, help="of each set")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    makers = vocoders(arguments.checkpoint)
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for group, x in recordings(arguments.files):
        for name, make in makers.items():
            found.setdefault((group, name), []).append(measured(make, x))
    table = Table("recordings", "vocoder", "PESQ-wb", "log-mel", "f0 cents", "voicing", "CPU s / s")
    for (group, name), values in found.items():
        table.add_row(group, name, *(f"{mean:.3f}" for mean in np.mean(values, axis=0)))
    tones = Table("vocoder", "f0 of sung vowels, cents (RMS)")
    for name, make in makers.items():
        tones.add_row(name, f"{sung(make):.1f}")
    Console(width=120).print(table, tones)


if __name__ == "__main__":
    main()
