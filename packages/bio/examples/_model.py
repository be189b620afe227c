"""The model of the examples: one that is named, the one that ships, or a toy that is trained on the spot."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from degauss.bio.alphabets import DNA
from degauss.bio.datasets import accessible_sites
from degauss.bio.model import ModelConfig, SequenceModel, find_model, shipped_models
from degauss.bio.nets import ConvNetConfig
from degauss.bio.training import Sequences, fit, recipe
from degauss.core.errors import InputError

LENGTH = 80


def open_model(name: str | None) -> SequenceModel:
    """A model of DNA: by name or folder; without one that which ships, else a toy."""
    if name is not None or "dna" in shipped_models():
        return SequenceModel.load(find_model(name or "dna"))
    print("no model ships yet: training a toy for some seconds")
    return toy()


def toy(steps: int = 150) -> SequenceModel:
    """A small network, on the middle of K562's accessible sites, or where these are not at hand on made-up DNA."""
    tokens = natural()
    data = Sequences(tokens, torch.zeros(len(tokens), dtype=torch.long), LENGTH, both_strands=True)
    with TemporaryDirectory() as out:
        settings = recipe(Path(out), steps=steps, batch=32, ema=0.98, device="cpu")
        return fit(ModelConfig(DNA, LENGTH, ConvNetConfig(48, 9, (1, 2, 4, 8))), data, None, settings)


def natural() -> torch.Tensor:
    """Sequences of DNA, ``[n, LENGTH]``: real ones, or words that genomes like, one after the other."""
    try:
        sites = [site.sequence for site in accessible_sites() if site.cell_type == "K562"]
        first = (len(sites[0]) - LENGTH) // 2
        return DNA.encode([sequence[first : first + LENGTH] for sequence in sites])
    except InputError:
        words = DNA.encode(
            ["AGATAAGG", "TGACTCAG", "CACGTGAC", "GGGCGGGG", "ATTTGCAT", "CAGGAAGT", "ACTACAAT", "TTTCTTCC"]
        )
        drawn = torch.randint(len(words), (4096, LENGTH // 8), generator=torch.Generator().manual_seed(0))
        return words[drawn].flatten(1)
