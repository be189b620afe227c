"""What many tests need: a model that can be enumerated, real sites where they are at hand, and a command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from degauss.bio import datasets
from degauss.bio.alphabets import DNA, Alphabet
from degauss.bio.cli import PROGRAM
from degauss.bio.datasets import Promoter, Site, Variant
from degauss.bio.model import ModelConfig, SequenceModel
from degauss.bio.nets import ConvNetConfig
from degauss.core.cli import Program


def random_model(
    length: int, labels: tuple[str, ...] = (), alphabet: Alphabet = DNA, net: ConvNetConfig | None = None
) -> SequenceModel:
    """An untrained model whose logits spread by about 1.5: far from uniform, from factorised, and from certain."""
    net = net or ConvNetConfig(8, 3, (1, 2))
    model = SequenceModel.new(ModelConfig(alphabet, length, net, labels), seed=1)
    generator = torch.Generator().manual_seed(0)
    for weight in model.network.parameters():
        weight.data += 0.4 * torch.randn(weight.shape, generator=generator)
    model.network.eval().requires_grad_(False)
    last = list(model.network.parameters())[-2:]
    states = torch.randint(alphabet.vocabulary + 1, (64, length), generator=generator)
    scale = 1.5 / model.network(states).std()
    for weight in last:
        weight *= scale
    return model


@pytest.fixture
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`random_model`, saved; its folder is outside the folder that a test runs in."""

    def saved(length: int, labels: tuple[str, ...] = (), alphabet: Alphabet = DNA) -> Path:
        folder = tmp_path_factory.mktemp("model") / "model"
        random_model(length, labels, alphabet).save(folder)
        return folder

    return saved


@pytest.fixture(scope="session")
def sites(or_skip: Callable[[Callable[[], list[Site]]], list[Site]]) -> list[Site]:
    """The accessible sites of four cell types, or a skip."""
    return or_skip(datasets.accessible_sites)


@pytest.fixture(scope="session")
def variants(or_skip: Callable[[Callable[[], list[Variant]]], list[Variant]]) -> list[Variant]:
    """The measured variants of GB1, or a skip."""
    return or_skip(datasets.gb1)


@pytest.fixture(scope="session")
def promoters(or_skip: Callable[[Callable[[], list[Promoter]]], list[Promoter]]) -> list[Promoter]:
    """The promoters of E. coli, or a skip."""
    return or_skip(datasets.promoters)


@pytest.fixture
def examples() -> Path:
    return Path(__file__).parents[2] / "packages" / "bio" / "examples"


@pytest.fixture
def program() -> Program:
    return PROGRAM
