"""Clean a noisy recording, and see where the model was unsure.

    python packages/audio/examples/clean_recording.py [noisy.wav] [--checkpoint MODEL] [--draws 4] [--out cleaned]

Without a recording, a voice that speaks no language is put into kitchen-like noise. MODEL is what `degauss-audio
train-enhancer` wrote; without one, the model that ships with the package is used, which has one answer and no draws.
Writes OUT/noisy.wav, OUT/clean.wav and OUT/spectra.png: the spectrum as it was and as it was found, and of a diffusion
model how far its draws differ. For long files, other rates in place and whole folders there is `degauss-audio enhance`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from degauss.audio.enhancement import SHIPPED, Enhancer, Sampling, estimate, sound_of
from degauss.audio.mixtures import mix
from degauss.audio.synthetic import murmur, pink
from degauss.audio.uncertainty import summary
from degauss.audio.waves import Wave, mono, read, resample, write
from degauss.core.errors import InputError
from degauss.core.files import atomic_path

LONGEST = 20.0  # s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("noisy", type=Path, nargs="?")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("cleaned"))
    arguments = parser.parse_args()
    model = Enhancer.load(arguments.checkpoint)
    rate = model.config.rate
    noisy = made_up(rate) if arguments.noisy is None else recorded(arguments.noisy, rate)
    found = estimate(model, noisy, Sampling(steps=arguments.steps, draws=arguments.draws))
    seen = summary(found.draws)
    clean = sound_of(model, seen.mean[None], found.peak, len(noisy))
    write(arguments.out / "noisy.wav", Wave(noisy[None], rate))
    write(arguments.out / "clean.wav", Wave(clean, rate))
    was = model.config.spectrum.encode(noisy[None] / found.peak)[0]
    panels = {"as it was (dB)": decibels(was), "found (dB)": decibels(seen.mean)}
    if len(found.draws) > 1:
        panels["deviation of the draws"] = seen.sd
    draw(arguments.out / "spectra.png", panels, model.config.spectrum.hop / rate, rate)
    print(f"wrote {arguments.out / 'clean.wav'}, and what was found to {arguments.out / 'spectra.png'}")


def recorded(path: Path, rate: int) -> Tensor:
    """A recording at the model's rate, ``[n]``."""
    wave = read(path, limit=LONGEST)
    return mono(resample(wave, rate))


def made_up(rate: int) -> Tensor:
    """Three seconds of a voice in noise, at 5 dB."""
    voice = murmur(3 * rate, rate, seed=1).samples
    noisy = mix(voice, pink(len(voice), seed=2), 5.0, rate)
    return 0.5 * noisy / noisy.abs().max()


def decibels(spectrum: Tensor) -> Tensor:
    """Of a spectrum ``[2, bins, frames]``, its magnitudes."""
    return 20 * torch.log10(spectrum.square().sum(0).sqrt().clamp_min(1e-4))


def draw(path: Path, panels: Mapping[str, Tensor], step: float, rate: int) -> None:
    """Pictures ``[bins, frames]`` by their titles, one below the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5 * len(panels)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, picture) in zip(figure.subplots(len(panels), 1, sharex=True), panels.items(), strict=True):
        extent = (0.0, picture.shape[1] * step, 0.0, rate / 2000)
        image = axes.imshow(picture.cpu().numpy(), origin="lower", aspect="auto", extent=extent, cmap="magma")
        axes.set_title(title, loc="left")
        axes.set_ylabel("kHz")
        figure.colorbar(image, ax=axes)
    with atomic_path(path) as part:
        figure.savefig(part, format="png")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
