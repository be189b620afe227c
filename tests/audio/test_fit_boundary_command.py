"""`fit-boundary` and `distill` on a folder of three vowels, with a model that was never trained."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from degauss.audio.acoustic import AcousticConfig, AcousticModel
from degauss.audio.acoustic_data import collate, read_corpus
from degauss.audio.boundary_fitting import CLASSIFIER, RECORD, load_boundary
from degauss.audio.shallow import draw
from degauss.audio.spectra import MelConfig
from degauss.audio.synthetic import VOWELS, glide, vowel
from degauss.audio.waves import Wave, write
from degauss.core import InputError
from degauss.core.gaussian import dpmpp

RATE, HOP, FRAMES = 8000, 128, 24
MEL = MelConfig(RATE, 512, HOP, 20, 0.0, 4000.0)
QUICK = ("--steps", "5", "--held-out", "2", "--every", "25", "--utterances", "2", "--evaluations", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten recordings of three vowels each, as 'prepare' would write them."""
    root = tmp_path_factory.mktemp("data") / "vowels"
    rows = []
    for number in range(10):
        names = [("a", "i", "u")[(number + k) % 3] for k in range(3)]
        f0 = glide(110 + 5 * number, 130, FRAMES * HOP)
        part = FRAMES * HOP // 3
        sound = torch.cat([vowel(VOWELS[name], f0[k * part : (k + 1) * part], RATE) for k, name in enumerate(names)])
        write(root / "wavs" / f"v{number}.wav", Wave(0.1 * sound[None], RATE))
        rows.append((f"v{number}", " ".join(names), " ".join([f"{part / RATE:.6f}"] * 3)))
    with (root / "transcriptions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("name", "ph_seq", "ph_dur"), *rows])
    return root


@pytest.fixture(scope="module")
def untouched(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = read_corpus(folder, MEL)
    config = AcousticConfig(
        corpus.phones, corpus.voices, MEL, hidden=16, blocks=1, kernel=3, channels=16, layers=2, dropout=0.0
    )
    path = tmp_path_factory.mktemp("model") / "voice"
    AcousticModel.new(config, corpus.statistics(config.voices)).save(path)
    (path / "card.json").write_text("{}\n")
    return path


@pytest.fixture
def checkpoint(untouched: Path, here: Path) -> Path:
    return Path(shutil.copytree(untouched, here / "voice"))


def test_boundary_is_found_kept_and_used(invoke, checkpoint: Path, folder: Path, here: Path) -> None:
    weights = (checkpoint / "model.safetensors").read_bytes()
    status, said, error = invoke(["fit-boundary", checkpoint, folder, *QUICK, "--out", "margin.png"])
    assert (status, error) == (0, "")
    for word in ("margin (in use)", "kl", "sweep", "margin.png"):
        assert word in said
    assert (here / "margin.png").read_bytes().startswith(b"\x89PNG")

    fitted = load_boundary(checkpoint)
    boundary = fitted.boundary
    assert boundary.steps == 100
    assert len(boundary.margin.curve) == 100
    assert boundary.sweep.candidates == (0, 25, 50, 75, 100)
    assert f"K = {boundary.step} of 100" in said

    model = AcousticModel.load(checkpoint)
    assert model.facts.boundary == boundary.t == boundary.margin.step / 100
    assert (checkpoint / "model.safetensors").read_bytes() == weights
    assert (checkpoint / "card.json").read_text() == "{}\n"
    assert not list(checkpoint.parent.glob(".*"))

    # An utterance's own start, whatever is drawn beside it.
    items = read_corpus(folder, MEL).items[:3]
    condition = model.condition(collate(items, model.config))
    drawn = draw(model, condition, fitted.adaptive(model), solver=dpmpp(2), steps=2)
    alone = draw(model, condition[1:2], fitted.adaptive(model), solver=dpmpp(2), steps=2, samples=[1])
    assert alone.times == drawn.times[1:2]
    assert all(0 < t <= 1 for t in drawn.times)


def test_fitting_again_gives_the_same_and_another_rule_another_start(invoke, checkpoint: Path, folder: Path) -> None:
    assert invoke(["fit-boundary", checkpoint, folder, *QUICK])[0] == 0
    assert (checkpoint.parent / "voice-boundary.png").exists()
    first = load_boundary(checkpoint).boundary
    assert invoke(["fit-boundary", checkpoint, folder, *QUICK, "--rule", "kl"])[0] == 0
    again = load_boundary(checkpoint).boundary
    assert again == dataclasses.replace(first, rule="kl")
    assert again.step == again.kl.step
    assert AcousticModel.load(checkpoint).facts.boundary == again.kl.step / 100


def test_boundary_of_other_weights_is_refused(invoke, checkpoint: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"has no boundary; 'degauss-audio fit-boundary' fits one\."):
        load_boundary(checkpoint)
    assert invoke(["fit-boundary", checkpoint, folder, *QUICK])[0] == 0
    record = json.loads((checkpoint / RECORD).read_text())
    (checkpoint / RECORD).write_text(json.dumps({**record, "fitted_to": "0" * 64}))
    with pytest.raises(InputError, match="fitted to other weights"):
        load_boundary(checkpoint)
    (checkpoint / RECORD).write_text(json.dumps({**record, "rule": "guess"}))
    with pytest.raises(InputError, match="not the record of a boundary"):
        load_boundary(checkpoint)
    (checkpoint / RECORD).write_text(json.dumps({k: v for k, v in record.items() if k != "margin"}))
    with pytest.raises(InputError, match="not the record of a boundary"):
        load_boundary(checkpoint)
    (checkpoint / RECORD).write_text(json.dumps(record))
    (checkpoint / CLASSIFIER).write_bytes(b"short")
    with pytest.raises(InputError, match="cut short"):
        load_boundary(checkpoint)


def test_bad_input_is_one_sentence(refused, checkpoint: Path, folder: Path, here: Path) -> None:
    command = "fit-boundary"
    assert "no model" in refused([command, here / "nothing", folder, *QUICK])
    assert "does not exist" in refused([command, checkpoint, here / "nothing", *QUICK])
    assert "ends in .png" in refused([command, checkpoint, folder, *QUICK, "--out", "margin.txt"])
    assert "inside the checkpoint" in refused([command, checkpoint, folder, *QUICK, "--out", "voice/margin.png"])
    assert "less than the 10 recordings" in refused([command, checkpoint, folder, "--held-out", "10"])
    assert "held_out must be at least 1" in refused([command, checkpoint, folder, "--held-out", "0"])
    assert "every" in refused([command, checkpoint, folder, *QUICK, "--every", "300"])
    assert "draws" in refused([command, checkpoint, folder, *QUICK, "--draws", "1"])
    assert "solver" in refused([command, checkpoint, folder, *QUICK, "--solver", "magic"])


def test_unknown_phone_is_named(refused, checkpoint: Path, folder: Path, here: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["config"]["phones"] = ["a", "i", "y"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    for words in (["fit-boundary", checkpoint, folder, *QUICK], ["distill", checkpoint, folder, "--out", "run"]):
        assert "'u'" in refused(words)


def test_distilled_model_is_a_model(invoke, checkpoint: Path, folder: Path, here: Path) -> None:
    words = ["distill", checkpoint, folder, "--out", "run", "--teacher-steps", "4", "--steps", "3", "--batch", "4"]
    status, said, error = invoke([*words, "--device", "cpu"])
    assert (status, error) == (0, "")
    assert "run/student/model" in said
    teacher, student = (AcousticModel.load(here / "run" / name / "model") for name in ("teacher", "student"))
    assert (teacher.facts.steps, student.facts.steps) == (4, 2)
    assert teacher.facts.solver == student.facts.solver == "ancestral"
    assert (here / "run" / "distill.toml").exists()


def test_distill_refuses_a_file_for_its_folder(refused, checkpoint: Path, folder: Path, here: Path) -> None:
    (here / "file").write_text("")
    assert "is a file" in refused(["distill", checkpoint, folder, "--out", "file"])
