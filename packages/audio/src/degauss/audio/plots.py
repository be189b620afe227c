"""A picture of a sound: its waveform, its mel spectrum, and its pitch.

One PNG, 1200 pixels wide, written to `path` whole or not at all. It is drawn on an Agg canvas of its own, so neither
a display nor `pyplot` is involved.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from degauss.audio.pitch import hz_to_midi, midi_to_hz, midi_to_note
from degauss.audio.spectra import MelConfig, hz_to_mel, log_mel
from degauss.audio.waves import Wave, mono, resample
from degauss.core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_INK, _QUIET, _GRID = "#22272e", "#6b7480", "#e6e9ed"
_WAVE, _PITCH = "#0b4f9e", "#25e0ff"
# Natural logarithms of magnitude to decibels.
_DECIBELS = 20 / np.log(10)
_RANGE = 80.0  # what is seen of a spectrum: decibels below its peak
_COLUMNS = 2000  # more samples than this are drawn as the range of each column


def sound_picture(
    path: str | os.PathLike[str], wave: Wave, config: MelConfig, f0: Tensor | None = None, title: str = ""
) -> None:
    """Draw the mean of a wave's channels over time.

    From above: the waveform; the mel spectrum of ``config``, on an axis in Hz, in dB (a wave of another rate is
    resampled for it); and, where ``f0 [frames]`` is given (Hz, 0 unvoiced, at the frames of the spectrum), the pitch,
    both inside the spectrum and by itself, beside the notes. Raises `ValueError` if ``f0`` has another length.
    """
    at_rate = resample(Wave(mono(wave)[None], wave.rate), config.rate).samples[0]
    mel = log_mel(at_rate, config).double().cpu().numpy() * _DECIBELS
    seconds = np.arange(mel.shape[1]) * config.hop / config.rate
    if f0 is not None and len(f0) != len(seconds):
        raise ValueError(f"f0 has {len(f0)} frames, but the mel spectrum has {len(seconds)}")
    figure, panels = _panels(title, [1.0, 3.0] if f0 is None else [1.0, 3.0, 1.4])
    _draw_wave(panels[0], mono(wave).double().cpu().numpy(), wave.rate)
    _draw_mel(figure, panels[1], mel, seconds, config)
    if f0 is not None:
        hz = f0.double().cpu().numpy()
        curve = np.where(hz > 0, hz, np.nan)
        _draw_pitch_inside(panels[1], seconds, curve, config)
        _draw_pitch(panels[2], seconds, curve)
    panels[-1].set_xlabel("seconds", color=_QUIET, fontsize=11)
    panels[-1].set_xlim(0, max(wave.duration, config.hop / config.rate))
    with atomic_path(Path(path)) as part:
        figure.savefig(part, format="png")


def _panels(title: str, heights: list[float]) -> tuple[Figure, list[Axes]]:
    """Panels one above the other, with one time axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06)
    figure = Figure(figsize=(12, 1.3 + 1.4 * sum(heights)), dpi=100, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    panels: list[Axes] = list(grid[:, 0])
    if title:
        panels[0].set_title(title, loc="left", fontsize=15, fontweight="bold", color=_INK, pad=10)
    for axes in panels:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color("#b8c0c9")
        axes.tick_params(colors=_QUIET, labelsize=10)
    return figure, panels


def _draw_wave(axes: Axes, samples: Array, rate: int) -> None:
    columns = min(len(samples), _COLUMNS)
    edges = np.linspace(0, len(samples), columns + 1).astype(int)
    low, high = np.minimum.reduceat(samples, edges[:-1]), np.maximum.reduceat(samples, edges[:-1])
    # A column reaches to the end of the one before: no gap between two that do not overlap.
    low[1:], high[1:] = np.minimum(low[1:], high[:-1]), np.maximum(high[1:], low[:-1])
    axes.fill_between(edges[:-1] / rate, low, high, color=_WAVE, linewidth=0.6)
    peak = max(float(np.abs(samples).max(initial=0)), 1e-3) * 1.08
    axes.set_ylim(-peak, peak)
    axes.set_ylabel("amplitude", color=_QUIET, fontsize=11)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_mel(figure: Figure, axes: Axes, mel: Array, seconds: Array, config: MelConfig) -> None:
    half = config.hop / config.rate / 2
    # Silence is dark, not a peak of its own.
    peak = max(float(mel.max()), np.log(config.floor) * _DECIBELS + _RANGE)
    image = axes.imshow(
        mel,
        origin="lower",
        aspect="auto",
        extent=(seconds[0] - half, seconds[-1] + half, -0.5, config.n_mels - 0.5),
        cmap="magma",
        vmin=peak - _RANGE,
        vmax=peak,
    )
    marks = [hz for hz in (100, 250, 500, 1000, 2000, 4000, 8000, 16000) if config.f_min <= hz <= config.f_max]
    axes.set_yticks(_band(np.array(marks, dtype=np.float64), config), [f"{hz:,}" for hz in marks])
    axes.set_ylim(-0.5, config.n_mels - 0.5)
    axes.set_ylabel("Hz", color=_QUIET, fontsize=11)
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=35, fraction=0.03)
    bar.set_label("dB", color=_QUIET, fontsize=11)
    bar.ax.tick_params(colors=_QUIET, labelsize=10)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def _band(hz: Array, config: MelConfig) -> Array:
    """Where a frequency lies among the bands, whose centres have whole numbers."""
    lowest, highest = hz_to_mel(np.array([config.f_min, config.f_max]))
    return (hz_to_mel(hz) - lowest) / (highest - lowest) * (config.n_mels + 1) - 1


def _draw_pitch_inside(axes: Axes, seconds: Array, curve: Array, config: MelConfig) -> None:
    from matplotlib.patheffects import Normal, Stroke

    (line,) = axes.plot(seconds, _band(curve, config), color=_PITCH, linewidth=1.6, label="f0")
    line.set_path_effects([Stroke(linewidth=3.2, foreground="black"), Normal()])
    axes.legend(loc="upper right", framealpha=0.85, fontsize=10, labelcolor=_INK, handlelength=1.4)


def _draw_pitch(axes: Axes, seconds: Array, curve: Array) -> None:
    axes.set_ylabel("f0 (Hz)", color=_QUIET, fontsize=11)
    if np.isnan(curve).all():
        axes.text(0.5, 0.5, "no voiced frame", transform=axes.transAxes, ha="center", va="center", color=_QUIET)
        axes.set_yticks([])
        return
    axes.plot(seconds, curve, color=_WAVE, linewidth=1.8, marker=".", markersize=2.5)
    low, high = float(np.nanmin(curve)), float(np.nanmax(curve))
    notes = _notes(low, high)
    axes.set_yscale("log")
    # Half a semitone around what is drawn, and never less than three semitones in all.
    centre, reach = np.sqrt(low * high), max(np.sqrt(high / low) * 2 ** (0.5 / 12), 2 ** (1.5 / 12))
    axes.set_ylim(centre / reach, centre * reach)
    axes.set_yticks([midi_to_hz(note) for note in notes], [f"{midi_to_hz(note):.0f}" for note in notes])
    axes.set_yticks([], minor=True)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    names = axes.secondary_yaxis("right")
    names.set_yticks([midi_to_hz(note) for note in notes], [midi_to_note(note) for note in notes])
    names.set_yticks([], minor=True)
    names.tick_params(colors=_QUIET, labelsize=10, length=0)
    names.spines["right"].set_visible(False)


def _notes(low: float, high: float) -> list[int]:
    """At most seven notes from below ``low`` to above ``high``, a whole number of semitones apart."""
    first, last = int(np.floor(hz_to_midi(low))), int(np.ceil(hz_to_midi(high)))
    step = next(step for step in (1, 2, 3, 4, 6, 12, 24) if (last - first) / step <= 6 or step == 24)
    return list(range(first - first % step, last + 1, step))
