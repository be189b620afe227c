"""`degauss-audio speak` as a person uses it."""

from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from degauss.audio.acoustic import AcousticConfig, AcousticModel, Facts, Range, Statistics
from degauss.audio.phones import ARPABET
from degauss.audio.spectra import MelConfig
from degauss.audio.waves import read
from degauss.core.files import fingerprint

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two voices that has learnt nothing but that phones last a while and have a pitch."""
    mel = MelConfig(n_fft=512, n_mels=20)
    config = AcousticConfig(("SP", *ARPABET), ("ann", "bob"), mel, hidden=16, blocks=1, channels=8, layers=2)
    statistics = Statistics(torch.full((20,), -9.0), torch.zeros(20), torch.tensor([60.0, 50.0]))
    made = AcousticModel.new(config, statistics, Facts(ranges={"ann": Range(55, 64)}))
    made.network.frontend.duration.out.bias.data.fill_(math.log(4))
    made.network.frontend.pitch_predictor.out.bias.data = torch.tensor([0.0, 5.0])
    folder = tmp_path_factory.mktemp("speech") / "model"
    made.save(folder)
    return folder


@pytest.fixture
def speak(invoke, trained):
    def command(*words: str | Path) -> tuple[int, str, str]:
        given = ["speak", *map(str, words), "--checkpoint", str(trained), "--vocoder", "griffin-lim"]
        return invoke(given + ([] if "--steps" in given else ["--steps", "2"]))

    return command


def table(text: str) -> Path:
    Path("list.csv").write_text(text)
    return Path("list.csv")


def test_a_sentence(speak, trained):
    status, out, error = speak("seven three one", "--voice", "bob", "--out", "deep/x.wav", "--seed", "4", "--k", "50")
    assert (status, error) == (0, "")
    assert out.startswith("wrote deep/x.wav: ")
    assert sorted(path.name for path in Path("deep").iterdir()) == ["x.json", "x.png", "x.wav"]
    wave = read("deep/x.wav")
    about = json.loads(Path("deep/x.json").read_text())
    assert wave.rate == 16000
    assert wave.duration == pytest.approx(about["duration"])
    assert about["text"] == "SP seven three one SP"
    assert about["phones"] == ["SP", "s", "eh", "v", "ah", "n", "th", "r", "iy", "w", "ah", "n", "SP"]
    expected = {"voice": "bob", "seed": 4, "solver": "dpmpp", "steps": 2, "evaluations": 2, "K": 50.0, "T": 100}
    assert {name: about[name] for name in expected} == expected
    assert about["checkpoint_sha256"] == fingerprint(trained)
    assert about["real_time_factor"] > 0
    assert Path("deep/x.png").read_bytes().startswith(b"\x89PNG")


def test_text_from_standard_input(speak, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("five\n"))
    status, _, error = speak("-", "--voice", "ann", "--out", "x.wav", "--no-picture")
    assert (status, error) == (0, "")
    assert json.loads(Path("x.json").read_text())["text"] == "SP five SP"
    assert not Path("x.png").exists()


def test_the_same_again_and_another_seed(speak):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        speak("one", "--voice", "ann", "--out", f"{name}.wav", "--seed", seed, "--no-picture")
    sounds = [Path(f"{name}.wav").read_bytes() for name in "abc"]
    assert sounds[0] == sounds[1] != sounds[2]


def test_a_list_goes_on_where_it_stopped(speak):
    lines = table("name,text,voice\nfirst,one,ann\nsecond,two,bob\nthird,three,ann\n")
    status, out, error = speak("--list", lines, "--out", "said", "--no-picture")
    assert (status, error) == (0, "")
    assert "wrote 3 of 3 sounds to said" in out
    names = sorted(path.name for path in Path("said").iterdir())
    assert names == [f"{name}.{kind}" for name in ("first", "second", "third") for kind in ("json", "wav")]
    whole = {path: path.read_bytes() for path in Path("said").glob("*.wav")}
    # One sound is lost, another one's text is changed.
    Path("said/first.json").unlink()
    table("name,text,voice\nfirst,one,ann\nsecond,four,bob\nthird,three,ann\n")
    assert "wrote 2 of 3 sounds" in speak("--list", lines, "--out", "said", "--no-picture")[1]
    assert Path("said/first.wav").read_bytes() == whole[Path("said/first.wav")]
    assert Path("said/second.wav").read_bytes() != whole[Path("said/second.wav")]
    assert "wrote 0 of 3 sounds" in speak("--list", lines, "--out", "said", "--no-picture")[1]
    assert "wrote 3 of 3 sounds" in speak("--list", lines, "--out", "said", "--no-picture", "--steps", "3")[1]
    # A sound does not depend on its place in the list, nor on there being one.
    speak("one", "--voice", "ann", "--out", "alone.wav", "--no-picture")
    assert Path("alone.wav").read_bytes() == whole[Path("said/first.wav")]


def test_world_speaks_too(invoke, trained):
    status, _, error = invoke(["speak", "two", "--voice", "ann", "--checkpoint", trained, "--vocoder", "world",
                               "--out", "x.flac", "--steps", "1"])  # fmt: skip
    assert (status, error) == (0, "")
    assert json.loads(Path("x.json").read_text())["vocoder"] == "World"
    assert read("x.flac").samples.abs().max() > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seven"], "the model has several voices: expected one of ann, bob."),
        (["seven", "--voice", "anne"], "there is no voice 'anne' (did you mean 'ann'?); the model has ann, bob."),
        (["sevn", "--voice", "ann"], "the pronouncing dictionary has no word 'sevn'"),
        (["...", "--voice", "ann"], "the text '...' has no word"),
        (["{qq}", "--voice", "ann"], "'qq' is not a phone"),
        ([], "there is nothing to say; expected a text, - for standard input, or --list FILE."),
        (["one", "--voice", "ann", "--out", "x.txt"], "x.txt: expected a name that ends in .wav or .flac or .ogg."),
        (["one", "--voice", "ann", "--k", "101"], "k must be between 0 and 100, but is 101.0."),
        (["one", "--voice", "ann", "--k", "much"], "k is 'much'; expected a step of 0 to 100, or 'auto'."),
        (["one", "--voice", "ann", "--k", "auto"], "has no boundary; 'degauss-audio fit-boundary' fits one."),
        (["one", "--voice", "ann", "--steps", "0"], "steps must be at least 1, but is 0."),
        (["one", "--voice", "ann", "--k", "100", "--solver", "heun"], "the solver cannot start at t = 1"),
        (["one", "--voice", "ann", "--rate", "9"], "rate must be between 0.25 and 4, but is 9.0."),
        (["one", "--voice", "ann", "--vocoder", "theremin"], "there is no vocoder 'theremin'"),
        (["--list", "none.csv"], "none.csv does not exist."),
    ],
)
def test_what_cannot_be_said(refused, trained, words, message):
    given = ["speak", *words, "--checkpoint", str(trained)]
    given += [] if "--vocoder" in words else ["--vocoder", "griffin-lim"]
    assert message in refused(given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,text\n", "has no lines"),
        ("name,text\na,\n", "line 2: name or text is missing or empty."),
        ("name,text\n../a,one\n", "'../a' is no name of a file"),
        ("name,text\na,one\na,two\n", "has the name 'a' twice"),
        ("name,text,voice\na,one,ann\nb,two,zoe\n", "'b': there is no voice 'zoe'"),
        ("name,text\na,one\nb,sevn\n", "'b': the pronouncing dictionary has no word 'sevn'"),
    ],
)
def test_lists_that_cannot_be_said(refused, trained, text, message):
    lines = table(text)
    said = refused(["speak", "--list", lines, "--voice", "ann", "--checkpoint", trained, "--vocoder", "griffin-lim",
                    "--out", "said"])  # fmt: skip
    assert message in said


def test_a_checkpoint_that_is_none(refused):
    assert "is no model" in refused(["speak", "one", "--checkpoint", "nowhere"])


def test_a_damaged_checkpoint(refused, trained):
    shutil.copytree(trained, "model")
    weights = Path("model/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cut short" in refused(["speak", "one", "--voice", "ann", "--checkpoint", "model"])


def test_help_without_torch():
    code = """
import sys
from degauss.audio.cli import PROGRAM
from degauss.audio.commands import acoustic_options
for verb in ("speak", "sing", "train"):
    try:
        PROGRAM.main([verb, "--help"])
    except SystemExit:
        pass
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--seed") == 3
