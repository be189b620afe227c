"""The acoustic model: its schedule, its units, its denoiser, its checkpoint."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from degauss.audio.acoustic import (
    PAPER,
    AcousticConfig,
    AcousticModel,
    AcousticNet,
    Facts,
    MelScale,
    Range,
    Statistics,
    frames_of,
)
from degauss.audio.frontend import Batch
from degauss.audio.spectra import MelConfig
from degauss.core.errors import InputError
from degauss.core.schedule import DiscreteVP, linear_betas

MEL = MelConfig(n_fft=512, n_mels=10)
CONFIG = AcousticConfig(
    ("SP", "aa", "iy"), ("ann", "bob"), MEL, hidden=16, blocks=1, channels=8, layers=2, prediction="v"
)
STATISTICS = Statistics(torch.linspace(-11, -8, 10), torch.linspace(0, 2, 10), torch.tensor([57.0, 45.0]))


def model(prediction: str = "v") -> AcousticModel:
    made = AcousticModel.new(replace(CONFIG, prediction=prediction), STATISTICS)
    torch.manual_seed(1)
    nn.init.normal_(made.network.wavenet.output_projection.weight, std=0.3)
    made.network.eval().requires_grad_(False)
    return made


def batch(*durations: list[int]) -> Batch:
    """Rows of phones of so many frames each."""
    phones, count = max(map(len, durations)), max(map(sum, durations))
    torch.manual_seed(2)
    rows = torch.tensor([row + [0] * (phones - len(row)) for row in durations])
    f0 = torch.tensor([[150.0] * sum(row) + [0.0] * (count - sum(row)) for row in durations])
    empty = torch.zeros(len(durations), phones)
    return Batch(
        phones=torch.tensor([[1 + k % 3 for k in range(len(row))] + [0] * (phones - len(row)) for row in durations]),
        durations=rows,
        voices=torch.zeros(len(durations), dtype=torch.int64),
        notes=empty,
        note_seconds=empty,
        slurs=empty.long(),
        melody=torch.zeros_like(f0),
        f0=f0,
        mel=torch.zeros(len(durations), 10, 0),
    )


# --- schedule ---


def test_the_path_ends_in_noise_alone():
    alpha, sigma = CONFIG.schedule(torch.tensor([0.0, 1.0]))
    assert alpha.tolist() == [1.0, 0.0]
    assert sigma.tolist() == [0.0, 1.0]


def test_k_means_the_noise_that_it_means_on_the_published_path():
    published = DiscreteVP.from_betas(linear_betas(100, 1e-4, 0.06))
    k = torch.tensor([10.0, 30.0, 51.0, 71.0]).double() / 100
    ours, theirs = CONFIG.schedule(k).sigma, published(k).sigma
    assert float((ours - theirs).abs().max()) < 0.12
    # The published path itself ends with a fifth of the data left.
    assert math.isclose(float(published(torch.tensor(1.0)).alpha) ** 2, 0.0465, abs_tol=5e-4)


# --- units ---


def test_model_units_and_back():
    scale = MelScale(STATISTICS.low, STATISTICS.high)
    mel = STATISTICS.low[:, None] + torch.rand(3, 10, 5) * (STATISTICS.high - STATISTICS.low)[:, None]
    assert float(scale(mel).abs().max()) <= 1
    torch.testing.assert_close(scale.inverse(scale(mel)), mel)
    ends = torch.stack([STATISTICS.low, STATISTICS.high, STATISTICS.high + 5], 1)
    torch.testing.assert_close(scale(ends), torch.tensor([-1.0, 1.0, 1.0]).expand(10, 3))


def test_a_bin_that_never_varies_is_not_magnified():
    scale = MelScale(torch.zeros(2), torch.zeros(2))
    assert bool(torch.isfinite(scale(torch.zeros(2, 3))).all())


# --- denoiser ---


def test_a_condition_is_zero_beyond_the_end_and_only_there():
    condition = model().condition(batch([3, 4], [5, 2, 4]))
    assert frames_of(condition).tolist() == [[1.0] * 7 + [0.0] * 4, [1.0] * 11]


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_the_denoiser_is_what_the_network_predicts_held_in_range(prediction):
    made = model(prediction)
    condition = made.condition(batch([5, 6]))
    x, t = torch.randn(1, 10, 11), torch.tensor(0.4, dtype=torch.float64)
    net = made.network.wavenet
    said = net(x, t.float(), net.project(condition))
    alpha, sigma = (float(scale) for scale in made.schedule(t))
    expected = said if prediction == "x0" else alpha * x - sigma * said
    found = made.denoiser(condition)(x, t).mean
    torch.testing.assert_close(found, expected.clamp(-1, 1), atol=1e-5, rtol=1e-5)
    assert float(expected.abs().max()) > 1
    assert float(found.abs().max()) == 1


def test_a_row_does_not_depend_on_its_batch():
    made = model()
    both, alone = batch([3, 4], [5, 2, 4]), batch([3, 4])
    condition, own = made.condition(both), made.condition(alone)
    torch.testing.assert_close(made.auxiliary(condition)[:1, :, :7], made.auxiliary(own), atol=1e-5, rtol=1e-5)
    x, t = torch.randn(2, 10, 11), torch.tensor(0.7, dtype=torch.float64)
    whole = made.denoiser(condition)(x, t).mean
    torch.testing.assert_close(whole[:1, :, :7], made.denoiser(own)(x[:1, :, :7], t).mean, atol=1e-5, rtol=1e-5)


def test_the_condition_is_projected_once_a_run(monkeypatch):
    made = model()
    calls: list[Tensor] = []
    project = made.network.wavenet.project
    monkeypatch.setattr(made.network.wavenet, "project", lambda c: calls.append(c) or project(c))
    denoiser = made.denoiser(made.condition(batch([5, 6])))
    for t in (0.9, 0.5, 0.1):
        denoiser(torch.randn(1, 10, 11), torch.tensor(t))
    assert len(calls) == 1


# --- checkpoint ---


def test_saved_and_loaded(tmp_path):
    facts = Facts(True, {"ann": Range(55, 64.5)}, 0.51, "unipc", 8, {"data": "abc"})
    made = replace(model(), facts=facts)
    made.save(tmp_path / "model")
    again = AcousticModel.load(tmp_path / "model")
    assert again.config == made.config
    assert again.facts == facts
    assert not again.network.training
    condition = made.condition(batch([5, 6]))
    assert torch.equal(again.condition(batch([5, 6])), condition)
    assert torch.equal(again.auxiliary(condition), made.auxiliary(condition))
    assert torch.equal(again.network.scale.inverse(torch.zeros(10, 1)), made.network.scale.inverse(torch.zeros(10, 1)))
    about = json.loads((tmp_path / "model" / "config.json").read_text())
    assert about["config"]["phones"] == ["SP", "aa", "iy"]
    assert about["config"]["mel"]["n_mels"] == 10


def test_a_checkpoint_of_something_else(tmp_path):
    model().save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "config": {**about["config"], "strange": 1}}))
    with pytest.raises(InputError, match="configuration is not that of an acoustic model"):
        AcousticModel.load(tmp_path / "model")
    path.write_text(json.dumps({**about, "format": "degauss.timeseries/csdi"}))
    with pytest.raises(InputError, match=r"but 'degauss.audio/acoustic' was expected"):
        AcousticModel.load(tmp_path / "model")


def test_the_published_size():
    config = AcousticConfig(tuple(f"p{k}" for k in range(70)), **PAPER)
    net = AcousticNet(config, Statistics(torch.zeros(80), torch.ones(80), torch.zeros(1)))
    count = sum(weight.numel() for weight in net.parameters())
    assert 25e6 < count < 42e6
    assert sum(weight.numel() for weight in net.wavenet.parameters()) == 15_086_416


# --- names ---


def test_voices_and_phones_by_name():
    made = model()
    assert made.voice("bob") == 1
    assert made.phone_numbers(("iy", "SP")) == [3, 1]
    with pytest.raises(InputError, match=r"no voice 'bab' \(did you mean 'bob'\?\); the model has ann, bob"):
        made.voice("bab")
    with pytest.raises(InputError, match="several voices: expected one of ann, bob"):
        made.voice(None)
    with pytest.raises(InputError, match="phone 2 of 2 is 'zh', which the model was not trained on"):
        made.phone_numbers(("aa", "zh"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"phones": ()}, "phones must be names that differ"),
        ({"voices": ("a", "a")}, "voices must be names that differ"),
        ({"prediction": "eps"}, "prediction must be one of 'v', 'x0'"),
        ({"beta_last": 1.0}, "betas must rise"),
        ({"channels": 7}, "channels must be even"),
        ({"hidden": 10, "heads": 4}, "hidden must be a multiple"),
    ],
)
def test_configurations_that_are_none(wrong, message):
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **wrong)


def test_statistics_of_other_bins():
    with pytest.raises(ValueError, match=r"low of the statistics is \(3,\), expected \(10,\)"):
        AcousticModel.new(CONFIG, STATISTICS._replace(low=torch.zeros(3)))
