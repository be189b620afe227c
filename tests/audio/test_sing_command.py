"""`degauss-audio train` and `sing` as a person uses them: from a prepared folder to a song."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from degauss.audio.acoustic import AcousticModel
from degauss.audio.acoustic_data import Corpus, Item
from degauss.audio.cli import PROGRAM
from degauss.audio.commands.train import Train
from degauss.audio.framing import Sung
from degauss.audio.lyrics import Note
from degauss.audio.midi import write_midi
from degauss.audio.score import Segment, write_ds
from degauss.audio.spectra import MelConfig
from degauss.audio.synthetic_corpus import write_sung_vowels
from degauss.audio.waves import read

pytestmark = pytest.mark.usefixtures("here")
SMALL = [
    "--hidden", "16", "--blocks", "1", "--channels", "8", "--layers", "2", "--n-fft", "512", "--n-mels", "20",
    "--auxiliary-steps", "6", "--steps", "6", "--batch", "2", "--hold-out", "1", "--device", "cpu",
]  # fmt: skip
PHRASE = Segment(
    phones=("SP", "aa", "iy", "SP"),
    durations=(0.1, 0.3, 0.3, 0.1),
    phones_per_word=(1, 1, 1, 1),
    notes=("rest", "A3", "C4", "rest"),
    note_durations=(0.1, 0.3, 0.3, 0.1),
    slurs=(0, 0, 0, 0),
    offset=0.25,
    text="ah ee",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train` leaves of four recordings."""
    folder = tmp_path_factory.mktemp("singing")
    write_sung_vowels(folder / "data", 8, vowels=2)
    assert PROGRAM.main(["train", str(folder / "data"), "--out", str(folder / "run"), *SMALL]) == 0
    return folder / "run"


@pytest.fixture
def sing(invoke, run):
    def command(*words: str | Path) -> tuple[int, str, str]:
        return invoke(["sing", *words, "--checkpoint", run / "model", "--vocoder", "world", "--steps", "2"])

    return command


def ds(*segments: Segment) -> Path:
    write_ds("song.ds", segments)
    return Path("song.ds")


# --- train ---


def test_what_train_leaves(run):
    assert {path.name for path in run.iterdir()} == {"auxiliary", "diffusion", "model", "mels.png", "train.toml"}
    about = tomllib.loads((run / "train.toml").read_text())
    model = AcousticModel.load(run / "model")
    assert about["auxiliary_steps"] == 6
    assert about["provenance"]["data_sha256"] == model.facts.hashes["data"]
    assert model.facts.sings
    assert model.config.phones == ("SP", "aa", "eh", "iy", "ow", "uw")
    for stage in ("auxiliary", "diffusion"):
        lines = [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]
        assert any("validation" in line for line in lines)


def test_train_again_changes_nothing(run, invoke):
    before = (run / "model" / "model.safetensors").read_bytes()
    status, out, error = invoke(["train", run.parent / "data", "--out", run, *SMALL])
    assert (status, error) == (0, "")
    assert "which sings as voice: 7 recordings" in out
    assert (run / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere/transcriptions.csv: does not exist; expected a folder that 'prepare' wrote."),
        (["data", "--hold-out", "8"], "hold_out must be between 0 and 7, but is 8."),
        (["data", "--hidden", "15"], "hidden must be a multiple of 2 x heads = 4, but is 15."),
        (["data", "--f-max", "9000"], "the mel spectra cannot be made"),
        (["data", "--steps", "0"], "steps must be at least 1, but is 0."),
    ],
)
def test_what_cannot_be_trained(run, refused, words, message):
    first = words[0] if words[0] == "nowhere" else run.parent / "data"
    assert message in refused(["train", first, *words[1:], "--out", "run", "--n-fft", "512", "--n-mels", "20"])


def test_the_paper_as_a_preset():
    nothing = torch.zeros(1)
    item = Item("a", "ann", ("aa",), nothing, Sung(nothing, nothing, nothing), nothing, nothing, nothing)
    corpus = Corpus((item,), MelConfig(), "")
    paper = Train(folder=Path("data"), preset="paper", cycle=4)._config(corpus)
    sizes = (paper.hidden, paper.blocks, paper.expansion, paper.channels, paper.layers, paper.cycle)
    assert sizes == (256, 4, 4, 256, 20, 4)
    assert Train(folder=Path("data"))._config(corpus).hidden == 128


# --- sing ---


def test_a_ds_file(sing):
    status, out, error = sing(ds(PHRASE, replace(PHRASE, offset=1.5)), "--out", "x.wav", "--seed", "3")
    assert (status, error) == (0, "")
    assert out.startswith("wrote x.wav: 2.3")
    assert sorted(path.name for path in Path().iterdir()) == ["song.ds", "x.json", "x.png", "x.wav"]
    samples = read("x.wav").samples[0]
    assert not bool(samples[: 16000 // 4].any())
    assert bool(samples[16000 // 4 :].any())
    about = json.loads(Path("x.json").read_text())
    expected = {"song": "song.ds", "voice": "voice", "seed": 3, "solver": "dpmpp", "evaluations": 4, "K": [60.0, 60.0]}
    assert {name: about[name] for name in expected} == expected
    assert [part["text"] for part in about["segments"]] == ["ah ee", "ah ee"]
    assert about["segments"][0]["durations"] == [0.1, 0.3, 0.3, 0.1]


def test_the_same_again(sing):
    for name in ("a", "b"):
        sing(ds(PHRASE), "--out", f"{name}.wav", "--no-picture")
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


def test_a_midi_file_of_vowels(sing):
    """English syllables as the model knows them: ah is 'aa'."""
    write_midi("song.mid", [Note(0.5, 1.0, 57.0, "ah"), Note(1.0, 1.5, 60.0), Note(1.5, 2.0, 60.0, "oh")])
    status, _, error = sing("song.mid", "--language", "english", "--out", "x.wav", "--no-picture")
    assert (status, error) == (0, "")
    about = json.loads(Path("x.json").read_text())
    assert [phone for part in about["segments"] for phone in part["phones"] if phone != "SP"] == ["aa", "ow"]
    durations = about["segments"][0]["durations"]
    assert durations[1] == pytest.approx(1.0)
    assert durations[2] == pytest.approx(0.5)


def refused_of(refused, run: Path, *segments: Segment) -> str:
    return refused(["sing", ds(*segments), "--checkpoint", run / "model", "--vocoder", "world"])


def test_transposed_into_range(sing, refused, run):
    high = replace(PHRASE, notes=("rest", "A5", "C6", "rest"))
    said = refused_of(refused, run, high)
    assert "note_seq place 2 (at 0.35 s): A5 is out of range; expected" in said
    assert "(1 more: see score-lint)" in said
    assert sing(ds(high), "--transpose", "-24", "--out", "x.wav", "--no-picture")[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phones": ("SP", "aa", "zz", "SP")}, "segment 1, ph_seq place 3 (at 0.65 s): no phone 'zz'"),
        ({"durations": (0.1, 0.3, 0.9, 0.1)}, "the notes last 0.800 s, but the phones 1.400 s"),
        ({"durations": (0.1, 0.3, 0.1)}, "ph_dur: 3 durations for 4 phones"),
        ({"notes": ("rest", "A3", "H4", "rest")}, "'H4' is not a note"),
        ({"phones_per_word": (1, 1, 2)}, "ph_num: 3 groups for 4 notes that are no slurs"),
        ({"durations": (0.1, float("nan"), 0.3, 0.1)}, "ph_dur place 2"),
    ],
)
def test_songs_that_cannot_be_sung(refused, run, change, message):
    assert message in refused_of(refused, run, replace(PHRASE, **change))


def test_what_is_no_song(refused, run):
    Path("song.wav").write_bytes(b"RIFF")
    options = ["--checkpoint", run / "model", "--vocoder", "world", "--out", "x.wav"]
    assert "is no song that can be read" in refused(["sing", "song.wav", *options])
    assert "does not exist" in refused(["sing", "none.ds", *options])
    assert "there is no voice 'zoe'; the model has voice." in refused(["sing", ds(PHRASE), *options, "--voice", "zoe"])
    assert "none is no model" in refused(["sing", ds(PHRASE), "--checkpoint", "none"])
