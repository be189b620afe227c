"""A reconstruction that its prior can denoise as it does its own slices is familiar; noise is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from degauss.core.noise import Noise
from degauss.medical.familiarity import LEVELS, STRANGE, known_errors, strangeness
from degauss.medical.prior import SlicePrior
from degauss.medical.prior_quality import denoising

from ._oracles import phantom, save_prior


def test_what_the_card_was_made_of_has_one_and_noise_has_more(tmp_path: Path) -> None:
    prior = SlicePrior.load(save_prior(tmp_path / "ct"))
    x = phantom()[0]
    known = {row.sigma: row.prior for row in denoising(prior, x[:, None], LEVELS)}
    assert strangeness(prior, known, x) == pytest.approx(1.0)
    strange = x + Noise(1, range(len(x))).normal(x)
    assert strangeness(prior, known, strange) > STRANGE


def test_the_errors_are_those_of_the_nearest_size(tmp_path: Path) -> None:
    rows = [{"size": size, "denoising": [{"sigma": s, "prior": size * s} for s in (0.1, 1.0)]} for size in (64, 128)]
    (tmp_path / "card.json").write_text(json.dumps({"metrics": {"by_size": rows}}))
    assert known_errors(tmp_path, 70) == {0.1: 6.4, 1.0: 64.0}
    assert known_errors(tmp_path, 512) == {0.1: 12.8, 1.0: 128.0}


@pytest.mark.parametrize(
    "card", [None, "{}", '{"metrics": {"by_size": []}}', '{"metrics": {"by_size": [{"size": 8}]}}']
)
def test_without_a_card_of_that_kind_nothing_is_said(tmp_path: Path, card: str | None) -> None:
    if card is not None:
        (tmp_path / "card.json").write_text(card)
    assert known_errors(tmp_path, 64) == {}


def test_no_more_slices_are_asked_about_than_needed(tmp_path: Path) -> None:
    prior = SlicePrior.load(save_prior(tmp_path / "ct"))
    x = phantom()[0, :1].expand(70, -1, -1)
    known = {row.sigma: row.prior for row in denoising(prior, x[:24, None], LEVELS)}
    assert strangeness(prior, known, x) == pytest.approx(1.0, rel=0.05)
    assert torch.isfinite(x).all()
