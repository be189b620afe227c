"""From words to files: one training of a generator with all that is kept beside it, for the command `train-generator`.

The training's folder gets, beside what `degauss.core.train` keeps in it,

    model/           the generator, with a card that says how it was made
    sheet.png        each word's scene from around, below the true mesh where that is known
    metrics.json     how good each word is where the truth is known, what it took, and what it was made of

metrics.json is written last: a folder that has it is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from degauss.core.cli import provenance
from degauss.core.errors import InputError
from degauss.core.files import atomic_path, write_json
from degauss.threed.amortised import AmortisedConfig, distil
from degauss.threed.generation import DONE, made_by, rounded
from degauss.threed.generator import MODEL, Generator, save_generator
from degauss.threed.meshes import Mesh
from degauss.threed.plots import labelled
from degauss.threed.prior_sources import Source
from degauss.threed.quality import ViewScores, compare_views, held_out_views
from degauss.threed.rendering import Representation
from degauss.threed.run import peak_memory
from degauss.threed.watching import around_views, look

SHEET = "sheet.png"
_SHOWN = 8
_PIXELS = 64


def words_of(source: Source, words: Sequence[str]) -> tuple[str, ...]:
    """The words asked for, or all that the prior knows; `InputError` where it has no list of them."""
    known = source.prior.vocabulary
    if not words and known is None:
        raise InputError(f"the prior {source.name} takes any text and has no list of words: say which to learn.")
    return tuple(words) or known or ()


@dataclass(frozen=True, eq=False)
class Looking:
    """Figures of a generator beside the meshes of its words, as far as these are known, ``truths``, by word."""

    truths: Mapping[str, Mesh]

    @classmethod
    def of(cls, words: Sequence[str], source: Source, device: torch.device | str) -> Looking:
        found = {word: source.about(word, device).truth for word in words}
        return cls({word: mesh for word, mesh in found.items() if mesh is not None})

    def scores(self, generator: Generator) -> dict[str, ViewScores]:
        """Of each word whose mesh is known, on views held out."""
        views = {word: held_out_views(_PIXELS, device=mesh.vertices.device) for word, mesh in self.truths.items()}
        return {word: compare_views(generator.scene(word), mesh, views[word]) for word, mesh in self.truths.items()}

    def __call__(self, generator: Generator) -> dict[str, float]:
        return means(self.scores(generator))


def means(scores: Mapping[str, ViewScores]) -> dict[str, float]:
    """Over words; nothing where there is none."""
    if not scores:
        return {}
    columns = zip(*scores.values(), strict=True)
    return {name: fmean(column) for name, column in zip(ViewScores._fields, columns, strict=True)}


def train_generator(
    config: AmortisedConfig,
    source: Source,
    out: Path,
    looks: int = 4,
    save_every: int = 100,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Train a generator in a folder, or go on there; write everything, and return what metrics.json holds.

    ``looks``: how often scores go to metrics.jsonl, where there are meshes to score by. Raises `InputError` as
    `amortised.distil` does.
    """
    words = config.generator.words
    looking = Looking.of(words, source, device)
    every = max(1, config.steps // looks)
    generator = distil(
        config, source.prior, out, looking if looking.truths else None, every, save_every, device, kept(source)
    )
    scores = looking.scores(generator)
    save_generator(out / MODEL, generator, made_by(config, source))
    sheet(out / SHEET, generator, looking.truths, device)
    figures: dict[str, Any] = {
        "method": config.method.name,
        "words": {word: rounded(scores[word]._asdict()) if word in scores else None for word in words},
        "mean": rounded(means(scores)) or None,
        "steps": config.steps,
        "renders": config.steps * config.renders,
        "parameters": sum(weight.numel() for weight in generator.parameters() if weight.requires_grad),
        "peak_memory_bytes": peak_memory(torch.device(device)),
        "device": str(device),
        **source.facts(),
        "versions": provenance(),
    }
    with atomic_path(out / DONE) as part:
        write_json(part, figures)
    return figures


def kept(source: Source) -> dict[str, str]:
    """What must be the same of a prior when a training goes on."""
    return {"prior_sha256": source.sha256}


def sheet(path: Path, generator: Generator, truths: Mapping[str, Mesh], device: torch.device | str) -> None:
    """Each word's scene from around, as PNG, below the true mesh where that is known."""
    cameras = around_views(_PIXELS, device, _SHOWN)

    def seen(what: Representation) -> list[Tensor]:
        return list(look(what, cameras).rgb)

    rows: list[tuple[str, list[Tensor]]] = []
    for word in generator.config.words:
        if word in truths:
            rows.append(("truth", seen(truths[word])))
        rows.append((word, seen(generator.scene(word))))
    labelled(path, rows, [f"{azimuth:g}°" for azimuth in cameras.angles()[0].tolist()])
