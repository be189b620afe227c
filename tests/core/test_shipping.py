"""Models that ship: found by name or path, and put in place whole by the script that trained them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from degauss.core.checkpoint import load_model, save_model
from degauss.core.errors import InputError
from degauss.core.shipping import find_shipped, made_by, parser, settings_of, ship, shipped_in


def saved(folder: Path, value: float = 0.0) -> Path:
    save_model(folder, {"w": torch.tensor([value])}, "test/model", {})
    return folder


def test_a_name_is_found_before_a_path_and_a_path_without_a_name(here: Path) -> None:
    weights = here / "weights"
    saved(weights / "spot")
    saved(here / "spot")
    saved(here / "mine")
    (weights / "unfinished").mkdir()  # no weights in it
    assert shipped_in(weights) == ["spot"]
    assert find_shipped("spot", weights) == weights / "spot"
    assert find_shipped("./spot", weights) == Path("spot")
    assert find_shipped("mine", weights) == Path("mine")


def test_a_name_that_is_not_there_is_told_from_those_that_are(here: Path) -> None:
    saved(here / "weights" / "spot")
    with pytest.raises(InputError, match=r"no prior 'spto' \(did you mean 'spot'\?\): expected .*that ship are spot"):
        find_shipped("spto", here / "weights", "prior")
    with pytest.raises(InputError, match="no model 'spot': expected the folder of one; none ships; 'fit' makes one"):
        find_shipped("spot", here / "none", verb="fit")


def test_a_model_is_installed_with_its_card_in_the_place_of_the_older_one(here: Path) -> None:
    saved(here / "weights" / "spot", 1.0)
    saved(here / "run" / "model", 2.0)
    arguments = parser("", steps=5, batch=2, lr=1e-3).parse_args(["run", "--install", "--seed", "3", "--device", "cpu"])
    assert settings_of(arguments) == {"steps": 5, "batch": 2, "lr": 1e-3, "seed": 3, "device": "cpu"}
    card = made_by("spot", "examples/train.py", arguments, "--twin")
    ship(arguments, card, here / "weights" / "spot")
    assert load_model(here / "weights" / "spot", "test/model").weights["w"].item() == 2
    found = json.loads((here / "weights" / "spot" / "card.json").read_text())
    assert found == card == json.loads((here / "run" / "model" / "card.json").read_text())
    assert found["command"] == "python examples/train.py OUT --steps 5 --batch 2 --lr 0.001 --seed 3 --twin"


def test_without_install_only_the_card_is_written(here: Path) -> None:
    saved(here / "run" / "model")
    ship(parser("", steps=5, batch=2, lr=1e-3).parse_args(["run"]), {"name": "spot"}, here / "weights" / "spot")
    assert (here / "run" / "model" / "card.json").is_file()
    assert not (here / "weights").exists()
