"""What many tests need: a model that can be enumerated, real sites where they are at hand, and a command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from degauss.core.errors import InputError


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


def _or_skip(read: Callable[[], list]) -> list:
    try:
        return read()
    except InputError as error:
        if "set DEGAUSS_DATA" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def sites() -> list[Site]:
    """The accessible sites of four cell types, or a skip."""
    return _or_skip(datasets.accessible_sites)


@pytest.fixture(scope="session")
def variants() -> list[Variant]:
    """The measured variants of GB1, or a skip."""
    return _or_skip(datasets.gb1)


@pytest.fixture(scope="session")
def promoters() -> list[Promoter]:
    """The promoters of E. coli, or a skip."""
    return _or_skip(datasets.promoters)


@pytest.fixture
def program() -> Program:
    return PROGRAM


Invoke = Callable[[Sequence[str | Path]], tuple[int, str, str]]


@pytest.fixture
def refused(
    invoke: Invoke, refusal: Callable[[Callable[[], tuple[int, str, str]]], str]
) -> Callable[[Sequence[str | Path]], str]:
    """A command line that must be refused, writing nothing -> its one sentence."""
    return lambda words: refusal(lambda: invoke(words))
