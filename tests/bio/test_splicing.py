"""SpliceAI's networks read from its files give Keras's own answers, and the reward built on them asks what it says."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from degauss.bio.alphabets import DNA
from degauss.bio.motifs import one_hot
from degauss.bio.rewards.parsing import parse_reward
from degauss.bio.rewards.splice import Splice
from degauss.bio.splicing import CONTEXT, SpliceNet, read_network, shipped_networks
from degauss.core.errors import InputError

INTRON = "GTAAGTATCGATTTCCAGGAACTTATTGACTTTCAA"
EXON = "CTGGACGAGCTGAAGGCCATCGAGAACCTGAAGCAG"


@pytest.fixture(scope="module")
def networks() -> list[SpliceNet]:
    pytest.importorskip("pysam", reason="spliceai is not installed")
    return shipped_networks(1)


def tokens(*sequences: str) -> torch.Tensor:
    return DNA.encode(sequences)


def test_keras_gives_the_same_probabilities(networks: list[SpliceNet], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
        import importlib.util

        spec = importlib.util.find_spec("spliceai")
        assert spec is not None
        assert spec.origin is not None
        file = Path(spec.origin).parent / "models" / "spliceai1.h5"
        x = one_hot(tokens(EXON + INTRON + EXON), 4).float()
        padded = np.pad(x.numpy(), ((0, 0), (CONTEXT, CONTEXT), (0, 0)))
        expected = keras.models.load_model(file, compile=False).predict(padded, verbose=0)
    found = networks[0](x).numpy()
    assert expected[..., 1:].max() > 0.02
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_donor_is_lost_with_its_first_base(networks: list[SpliceNet]) -> None:
    lost = EXON + "C" + INTRON[1:]
    reward = Splice(networks, "donor", len(EXON))
    kept, broken = reward(tokens(EXON + INTRON, lost)).tolist()
    assert kept > broken + 3
    anywhere = Splice(networks, "donor")
    assert float(anywhere(tokens(EXON + INTRON))) >= kept
    assert Splice(networks, "donor", how="none")(tokens(EXON + INTRON)) == -anywhere(tokens(EXON + INTRON))


def test_rewards_are_written_as_text(networks: list[SpliceNet]) -> None:
    assert parse_reward("splice:donor@36,nets=1").name == "splice:donor@36"
    assert parse_reward("splice:acceptor,how=none,nets=1").name == "splice:acceptor,how=none"
    with pytest.raises(InputError, match="have 36 bases; expected a place among them"):
        Splice(networks, "donor", 37)(tokens(EXON))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("splice:middle", "reward splice must be one of 'acceptor', 'donor'"),
        ("splice:donor@0", "the place is 0; expected a base's number"),
        ("splice:donor@1.5", "the place is 1.5"),
        ("splice:donor,nets=7", "nets must be one of"),
    ],
)
def test_bad_arguments_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_reward(text)


def test_the_reach_is_five_thousand_bases() -> None:
    """10,001 places of kernels and dilations: no more and no fewer see a base.."""
    network = SpliceNet().eval()
    for norm in network.normalisations():
        torch.nn.init.constant_(norm.bias, 1.0)  # no unit is dead
    x = torch.zeros(1, CONTEXT + 200, 4, requires_grad=True)
    (seen,) = torch.autograd.grad(network(x)[0, 0].square().sum(), x)
    reached = seen[0].abs().sum(-1).nonzero().flatten()
    assert int(reached.max()) == CONTEXT


def test_a_file_that_holds_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"nothing")
    with pytest.raises(InputError, match="holds no network of SpliceAI"):
        read_network(tmp_path / "x.h5")
