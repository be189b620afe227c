"""Pictures of mels, one under the other: what was recorded, and what a model makes of the same words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from degauss.audio.spectra import MelConfig
from degauss.core.files import atomic_path

_INK = "#22272e"


def mel_panels(path: Path, panels: Mapping[str, Tensor], mel: MelConfig) -> None:
    """Log-mels ``[mels, frames]`` by their titles on one colour scale, as a PNG; whole or absent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 2 * len(panels)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    low = min(float(panel.min()) for panel in panels.values())
    high = max(float(panel.max()) for panel in panels.values())
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    image: Any = None
    for axes, (title, panel) in zip(every, panels.items(), strict=True):
        seconds = panel.shape[1] * mel.hop / mel.rate
        image = axes.imshow(
            panel.cpu().numpy(), origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high,
            extent=(0, seconds, 0, panel.shape[0]), interpolation="nearest",
        )  # fmt: skip
        axes.set_title(title, loc="left", fontsize=10, color=_INK)
        axes.set_ylabel("mel bin")
    every[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=list(every), label="ln magnitude")
    with atomic_path(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
