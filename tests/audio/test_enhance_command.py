"""`enhance` and `train-enhancer` as a user meets them: what they write, what they keep, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from degauss.audio import streaming
from degauss.audio.commands import enhance as command
from degauss.audio.enhancement import Enhancer, EnhancerConfig, Sampling, enhance
from degauss.audio.masker import MASK_LOSS, MaskerConfig
from degauss.audio.spectra import Compressed
from degauss.audio.streaming import Chunking
from degauss.audio.synthetic import pink
from degauss.core.nets.ncsnpp import NCSNppConfig
from degauss.core.solvers import solver_of

RATE = 4000
NET = NCSNppConfig(channels=4, multipliers=(1,), attention=False)
CONFIG = EnhancerConfig(rate=RATE, spectrum=Compressed(n_fft=126, hop=32), predictive=NET, score=NET)
QUICK = ("--steps", "1", "--no-picture")

Invoke = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StoRM that was never trained, with weights that do something."""
    return _saved(tmp_path_factory.mktemp("storm") / "model", CONFIG)


@pytest.fixture(scope="session")
def predictive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(tmp_path_factory.mktemp("predictive") / "model", replace(CONFIG, score=None))


def _saved(path: Path, config: EnhancerConfig) -> Path:
    model = Enhancer.new(config)
    generator = torch.Generator().manual_seed(1)
    for weight in model.network.parameters():
        with torch.no_grad():
            weight.add_(0.03 * torch.randn(weight.shape, generator=generator))
    model.save(path)
    return path


def record(path: Path, seconds: float = 0.5, rate: int = RATE, channels: int = 1, seed: int = 0) -> Tensor:
    """A recording of noise, ``[channels, n]``."""
    x = 0.02 * torch.stack([pink(round(seconds * rate), seed + k) for k in range(channels)])
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, x.T.numpy(), rate, subtype="FLOAT")
    return x


def written(path: Path) -> np.ndarray:
    return sf.read(path, dtype="float32", always_2d=True)[0].T


def test_it_is_the_model_on_the_sound(here: Path, invoke: Invoke, checkpoint: Path) -> None:
    x = record(here / "noisy.wav")
    words = ["enhance", "noisy.wav", "--out", "clean.wav", "--checkpoint", checkpoint, "--steps", "2", "--seed", "5"]
    status, out, error = invoke(words)
    assert (status, error) == (0, "")
    assert "wrote clean.wav: 0.50 s" in out
    want = enhance(x[0], Enhancer.load(checkpoint), Sampling(solver_of("dpmpp"), 2, seed=5))
    np.testing.assert_allclose(written(here / "clean.wav")[0], want.numpy(), atol=1e-6)
    about = json.loads((here / "clean.json").read_text())
    assert about["settings"]["seed"] == 5
    assert about["settings"]["method"] == "storm"
    assert len(about["settings"]["checkpoint_sha256"]) == 64
    assert about["evaluations"] == 3  # D(y), and two steps
    assert about["real_time_factor"] > 0
    assert (here / "clean.png").read_bytes().startswith(b"\x89PNG")


def test_rate_channels_and_kind_are_restored(here: Path, invoke: Invoke, checkpoint: Path) -> None:
    """Another rate is said; three channels are three sounds with the same randomness."""
    x = record(here / "noisy.flac.wav", rate=11_025, channels=3)
    status, _, error = invoke(["enhance", "noisy.flac.wav", "--checkpoint", checkpoint, *QUICK])
    assert status == 0
    assert error.strip() == "noisy.flac.wav: is at 11025 Hz; resampled to the model's 4000 Hz and back."
    info = sf.info(here / "enhanced.wav")
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (11_025, 3, x.shape[1], "FLOAT")
    sf.write(here / "one.wav", x[1].numpy(), 11_025, subtype="FLOAT")
    invoke(["enhance", "one.wav", "--out", "alone.wav", "--checkpoint", checkpoint, *QUICK])
    np.testing.assert_allclose(written(here / "alone.wav")[0], written(here / "enhanced.wav")[1], atol=1e-6)


def test_peaks_are_never_clipped(here: Path, invoke: Invoke, predictive: Path, monkeypatch) -> None:
    record(here / "noisy.wav")
    make = command.Enhance._process
    monkeypatch.setattr(
        command.Enhance, "_process", lambda *given: lambda chunk, number: 400 * make(*given)(chunk, number)
    )
    status, _, error = invoke(["enhance", "noisy.wav", "--checkpoint", predictive, *QUICK])
    assert status == 0
    assert "the peak passed full scale; written at 0." in error
    assert float(np.abs(written(here / "enhanced.wav")).max()) == pytest.approx(0.999, abs=1e-4)
    assert 0 < json.loads((here / "enhanced.json").read_text())["volume"] < 1


def test_long_recordings_are_cleaned_in_chunks(here: Path, invoke: Invoke, checkpoint: Path, monkeypatch) -> None:
    """As `streaming` says, with each chunk's own randomness; the JSON tells where the chunks lie."""
    chunking = Chunking(2000, 200, 300)
    monkeypatch.setattr(streaming.Chunking, "at", classmethod(lambda cls, rate: chunking))
    x = record(here / "noisy.wav", seconds=2.0)
    assert invoke(["enhance", "noisy.wav", "--checkpoint", checkpoint, *QUICK])[0] == 0
    model, sampling = Enhancer.load(checkpoint), Sampling(solver_of("dpmpp"), 1)
    parts = streaming.stream(lambda chunk, k: enhance(chunk, model, sampling, k), chunking, [x[0]])
    np.testing.assert_allclose(written(here / "enhanced.wav")[0], torch.cat(list(parts)).numpy(), atol=1e-6)
    about = json.loads((here / "enhanced.json").read_text())
    assert about["evaluations"] == 2 * chunking.count(8000) == 8
    assert about["chunk"] == {"step": 2000, "fade": 200, "context": 300}


def test_it_is_repeatable_and_the_seed_matters(here: Path, invoke: Invoke, checkpoint: Path) -> None:
    record(here / "noisy.wav")
    found = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = ["enhance", "noisy.wav", "--out", f"{name}.wav", "--checkpoint", checkpoint, "--seed", seed]
        assert invoke([*words, "--solver", "pc", "--draws", "2", *QUICK])[0] == 0
        found[name] = written(here / f"{name}.wav")
    np.testing.assert_array_equal(found["a"], found["b"])
    assert float(np.abs(found["a"] - found["c"]).max()) > 1e-4


def test_a_folder_goes_on_where_it_stopped(here: Path, invoke: Invoke, predictive: Path) -> None:
    record(here / "in" / "a.wav")
    record(here / "in" / "deep" / "b.flac.wav", seed=1)
    words = ["enhance", "in", "--out", "out", "--checkpoint", predictive, "--no-picture"]
    status, out, _ = invoke(words)
    assert (status, out) == (0, "wrote 2 of 2 sounds to out\n")
    before = (here / "out" / "a.wav").stat().st_mtime_ns
    (here / "out" / "deep" / "b.flac.json").unlink()
    assert invoke(words)[1] == "wrote 1 of 2 sounds to out; 1 were there\n"
    assert (here / "out" / "a.wav").stat().st_mtime_ns == before
    record(here / "in" / "a.wav", seed=9)  # another recording of the same name
    assert invoke(words)[1] == "wrote 1 of 2 sounds to out; 1 were there\n"


def test_a_folder_with_a_bad_recording_is_cleaned_but_for_it(here: Path, invoke: Invoke, predictive: Path) -> None:
    record(here / "in" / "a.wav")
    (here / "in" / "b.wav").write_text("no sound")
    status, out, error = invoke(["enhance", "in", "--out", "out", "--checkpoint", predictive, "--no-picture"])
    assert status == 2
    assert out == "wrote 1 of 2 sounds to out\n"
    assert error.startswith("degauss-audio: error: 1 of 2 recordings were left out; the first: in/b.wav: is not sound")
    assert sorted(path.name for path in (here / "out").iterdir()) == ["a.json", "a.wav"]


def test_what_draws_disagree_on_can_be_predicted(here: Path, invoke: Invoke, checkpoint: Path) -> None:
    """With a limit of nothing it is the predictive estimate."""
    x = record(here / "noisy.wav")
    words = ["enhance", "noisy.wav", "--checkpoint", checkpoint, "--draws", "2", "--fall-back", "0", *QUICK]
    assert invoke(words)[0] == 0
    model = Enhancer.load(checkpoint)
    alone = Enhancer(replace(model.config, score=None), model.network)
    np.testing.assert_allclose(written(here / "enhanced.wav")[0], enhance(x[0], alone).numpy(), atol=1e-3)


def test_bad_recordings_are_one_sentence(here: Path, refused: Refused, predictive: Path) -> None:
    def said(name: str) -> str:
        return refused(["enhance", name, "--checkpoint", predictive])

    assert "no such file" in said("missing.wav")
    (here / "text.wav").write_text("no sound")
    assert "is not sound" in said("text.wav")
    (here / "empty.wav").touch()
    assert "empty file" in said("empty.wav")
    sf.write(here / "silent.wav", np.zeros(4000, np.float32), RATE)
    assert "is silent" in said("silent.wav")
    sf.write(here / "nan.wav", np.array([0.1, np.nan], np.float32), RATE, subtype="FLOAT")
    assert "NaN" in said("nan.wav")
    (here / "nothing").mkdir()
    assert "holds no sound" in refused(["enhance", "nothing", "--out", "out", "--checkpoint", predictive])


def test_bad_options_are_one_sentence(here: Path, refused: Refused, checkpoint: Path, predictive: Path) -> None:
    record(here / "noisy.wav")

    def said(*words: object, model: Path = checkpoint) -> str:
        return refused(["enhance", "noisy.wav", "--checkpoint", model, *map(str, words)])

    assert "is the recording itself" in said("--out", "noisy.wav")
    assert "expected a name that ends in" in said("--out", "clean.txt")
    assert "steps must be at least 1" in said("--steps", "0")
    assert "draws must be" in said("--draws", "0")
    assert "start must be above 0.03" in said("--start", "0.01")
    assert "at least 2 draws" in said("--fall-back", "0.1")
    assert "StoRM" in said("--fall-back", "0.1", "--draws", "2", model=predictive)
    assert "has one answer" in said("--draws", "2", model=predictive)
    assert "is no model" in said(model=here / "missing")
    (here / "file").touch()
    assert "is a file" in refused(["enhance", ".", "--out", "file", "--checkpoint", checkpoint])


# --- training ---


@pytest.mark.parametrize("network", ["ncsnpp", "mask"])
def test_a_model_is_trained_and_used(here: Path, invoke: Invoke, network: str) -> None:
    for part in ("clean", "noisy"):
        record(here / "data" / part / "a.wav", seconds=1.0, rate=8000)
    words = ["train-enhancer", "data", "--method", "predictive", "--size", "tiny", "--rate", RATE, "--seconds", "0.2"]
    words += ["--predictive", network]
    status, out, _ = invoke([*words, "--steps", "2", "--batch", "1", "--device", "cpu", "--out", "run"])
    assert status == 0
    assert "wrote run/model after 2 steps" in out
    model = Enhancer.load(here / "run" / "model")
    assert isinstance(model.config.predictive, MaskerConfig) == (network == "mask")
    assert model.config.by_magnitude == (MASK_LOSS if network == "mask" else 0)
    assert (model.config.method, model.config.rate, model.config.spectrum.hop) == ("predictive", RATE, 32)
    assert (here / "run" / "train.toml").is_file()
    record(here / "noisy.wav")
    assert invoke(["enhance", "noisy.wav", "--checkpoint", "run/model", "--no-picture"])[0] == 0


def test_reverberation_is_learnt_from_clean_speech_alone(here: Path, invoke: Invoke, refused: Refused) -> None:
    pytest.importorskip("pyroomacoustics")
    record(here / "data" / "clean" / "a.wav", seconds=1.0)
    words = ["train-enhancer", "data", "--method", "predictive", "--size", "tiny", "--rate", RATE, "--seconds", "0.2"]
    words += ["--steps", "1", "--batch", "1", "--device", "cpu", "--out", "run"]
    assert "rooms above 0" in refused(words)
    assert invoke([*words, "--rooms", "1"])[0] == 0
    assert "rooms = 1.0" in (here / "run" / "train.toml").read_text()


def test_sgmse_has_no_mask(here: Path, refused: Refused) -> None:
    words = ["train-enhancer", "data", "--method", "sgmse", "--predictive", "mask"]
    assert "SGMSE+ has no predictive model" in refused(words)


def test_bad_folders_are_one_sentence(here: Path, refused: Refused) -> None:
    (here / "data").mkdir()
    assert "holds neither" in refused(["train-enhancer", "data", "--out", "run"])
    assert "is no folder" in refused(["train-enhancer", "missing", "--out", "run"])
    record(here / "data" / "clean" / "a.wav")
    (here / "data" / "noise").mkdir()
    (here / "data" / "noise" / "n.wav").write_text("no sound")
    assert "n.wav" in refused(["train-enhancer", "data", "--out", "run"])
