"""The front end: exact frames, pitch around a reference, and no trace of padding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from degauss.audio.frontend import (
    Batch,
    Frontend,
    FrontendConfig,
    Pitch,
    PitchEmbedding,
    frames_inside,
    hz_of,
    midi_of,
    repeat,
    whole_frames,
)
from degauss.core.errors import InputError

CONFIG = FrontendConfig(phones=6, voices=2, hidden=16, blocks=2, kernel=5)


@pytest.fixture
def frontend() -> Frontend:
    torch.manual_seed(0)
    return Frontend(CONFIG, torch.tensor([45.0, 57.0])).eval()


def utterance(seed: int, phones: int) -> Batch:
    """A batch of one, some phones sung, some frames unvoiced."""
    torch.manual_seed(seed)
    durations = torch.randint(1, 5, (1, phones))
    frames = int(durations.sum())
    notes = torch.where(torch.rand(1, phones) < 0.5, torch.randint(50, 70, (1, phones)).float(), 0.0)
    return Batch(
        phones=torch.randint(1, 7, (1, phones)),
        durations=durations,
        voices=torch.tensor([seed % 2]),
        notes=notes,
        note_seconds=torch.rand(1, phones),
        slurs=torch.randint(0, 2, (1, phones)),
        melody=repeat(notes, durations, frames),
        f0=torch.where(torch.rand(1, frames) < 0.7, 100 + 100 * torch.rand(1, frames), 0.0),
        mel=torch.randn(1, 4, frames),
    )


def padded(*batches: Batch) -> Batch:
    parts = []
    for rows in zip(*batches, strict=True):
        size = max(row.shape[-1] for row in rows)
        wide = [row if row.ndim == 1 else torch.nn.functional.pad(row, (0, size - row.shape[-1])) for row in rows]
        parts.append(torch.cat(wide))
    return Batch(*parts)


# --- time ---


@given(st.lists(st.floats(0, 20, width=32), min_size=1, max_size=200))
def test_rounding_never_drifts(lengths):
    frames = whole_frames(torch.tensor(lengths, dtype=torch.float64))
    assert bool((frames >= 0).all())
    ends = torch.cumsum(torch.tensor(lengths, dtype=torch.float64), 0)
    assert float((torch.cumsum(frames, 0) - ends).abs().max()) <= 0.5


def test_rounding_each_would_drift():
    """A hundred phones of 0.4 frames last 40 frames, not none."""
    assert int(whole_frames(torch.full((100,), 0.4)).sum()) == 40


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_the_length_regulator_repeats(durations):
    count = torch.tensor(durations)
    x = torch.arange(1.0, 2 * len(durations) + 1).reshape(1, -1, 2)
    out = repeat(x, count[None], int(count.sum()) + 3)[0]
    expected = torch.repeat_interleave(x[0], count, dim=0)
    assert torch.equal(out[: len(expected)], expected)
    assert not bool(out[len(expected) :].any())


def test_rows_end_where_their_phones_do():
    inside = frames_inside(torch.tensor([[2, 1, 0], [1, 1, 3]]), 6)
    assert inside.tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]


# --- pitch ---


def test_midi_and_hertz():
    hz = torch.tensor([440.0, 261.6256, 0.0])
    torch.testing.assert_close(midi_of(hz), torch.tensor([69.0, 60.0, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(hz_of(midi_of(hz[:2])), hz[:2], rtol=1e-5, atol=0)


def test_pitch_is_a_straight_line_between_semitones():
    torch.manual_seed(0)
    embedding = PitchEmbedding(8)
    low, high, middle, none = embedding(torch.tensor([60.0, 61.0, 60.25, 0.0]))
    torch.testing.assert_close(middle, 0.75 * low + 0.25 * high)
    assert not torch.allclose(low, high)
    assert torch.equal(none, embedding.semitones.weight[0])


def test_f0_is_the_reference_where_nothing_is_added(frontend):
    torch.nn.init.zeros_(frontend.pitch_predictor.out.weight)
    frontend.pitch_predictor.out.bias.data = torch.tensor([0.0, 1.0])
    batch = utterance(1, 6)
    f0 = frontend.predict_pitch(batch, frontend.encode(batch)).f0
    expected = torch.where(batch.melody > 0, hz_of(batch.melody), hz_of(torch.tensor(57.0)))
    torch.testing.assert_close(f0, expected, rtol=1e-4, atol=0)


def test_f0_is_semitones_above_the_reference_or_no_voice():
    pitch = Pitch(torch.tensor([[12.0, -12.0, 0.0]]), torch.tensor([[1.0, 0.1, -0.1]]), torch.full((1, 3), 69.0))
    torch.testing.assert_close(pitch.f0, torch.tensor([[880.0, 220.0, 0.0]]))


def test_the_predictor_does_not_see_the_answer(frontend):
    batch = utterance(2, 5)
    other = batch._replace(f0=batch.f0 + 50)
    said, again = (frontend.predict_pitch(one, frontend.encode(one)) for one in (batch, other))
    assert torch.equal(said.f0, again.f0)
    conditions = [frontend.condition(one, frontend.encode(one)) for one in (batch, other)]
    assert not torch.allclose(*conditions)


# --- the whole ---


def test_padding_changes_nothing(frontend):
    short, long = utterance(3, 4), utterance(4, 9)
    both = padded(short, long)
    whole = frontend.encode(both)
    for row, one in enumerate((short, long)):
        phones, frames = one.phones.shape[1], one.f0.shape[1]
        encoded = frontend.encode(one)
        torch.testing.assert_close(whole[row : row + 1, :phones], encoded, atol=1e-5, rtol=1e-5)
        log_durations = frontend.log_durations(both, whole)[row : row + 1, :phones]
        torch.testing.assert_close(log_durations, frontend.log_durations(one, encoded), atol=1e-5, rtol=1e-5)
        pitches = frontend.predict_pitch(both, whole), frontend.predict_pitch(one, encoded)
        for found, expected in zip(*pitches, strict=True):
            torch.testing.assert_close(found[row : row + 1, :frames], expected, atol=1e-5, rtol=1e-5)
        condition = frontend.condition(both, whole)[row : row + 1]
        torch.testing.assert_close(condition[..., :frames], frontend.condition(one, encoded), atol=1e-5, rtol=1e-5)
        assert not bool(condition[..., frames:].any())
        assert bool((condition[..., :frames] != 0).any(1).all())


def test_garbage_in_the_padding_changes_nothing(frontend):
    """What stands beyond the last phone is not looked at: only where phones are 0."""
    batch = padded(utterance(3, 4), utterance(4, 9))
    dirty = batch._replace(
        notes=torch.where(batch.phones > 0, batch.notes, 66.0), slurs=torch.where(batch.phones > 0, batch.slurs, 1)
    )
    torch.testing.assert_close(frontend.encode(dirty), frontend.encode(batch))


@pytest.mark.parametrize("field", ["phones", "notes", "note_seconds", "slurs", "voices"])
def test_everything_that_is_told_is_heard(frontend, field):
    batch = utterance(5, 6)
    batch = batch._replace(notes=torch.full_like(batch.notes, 60))
    changed = {
        "phones": batch.phones % 6 + 1,
        "notes": batch.notes + 1,
        "note_seconds": batch.note_seconds + 1,
        "slurs": 1 - batch.slurs,
        "voices": 1 - batch.voices,
    }[field]
    assert not torch.allclose(frontend.encode(batch._replace(**{field: changed})), frontend.encode(batch))


def test_every_phone_hears_every_other_and_where_it_stands(frontend):
    batch = utterance(6, 7)
    first = frontend.encode(batch)
    other = batch._replace(phones=torch.cat([batch.phones[:, :-1], batch.phones[:, -1:] % 6 + 1], 1))
    assert bool(((frontend.encode(other) - first).abs().amax(2) > 1e-6).all())
    same = batch._replace(
        phones=torch.ones_like(batch.phones), notes=torch.zeros_like(batch.notes), slurs=torch.zeros_like(batch.slurs)
    )
    assert not torch.allclose(frontend.encode(same)[0, 0], frontend.encode(same)[0, 3])


def test_a_tenth_of_the_predictors_gradient_reaches_the_encoder(frontend):
    batch = utterance(7, 5)
    told = torch.randn(1, 5, 16, requires_grad=True)
    frontend.log_durations(batch, told).sum().backward()
    assert told.grad is not None
    copy = told.detach().clone().requires_grad_()
    inside = torch.ones(1, 5)
    x = copy
    for convolution, norm in zip(frontend.duration.convolutions, frontend.duration.norms, strict=True):
        x = norm(torch.relu(convolution((x * inside[..., None]).mT).mT))
    frontend.duration.out(x).sum().backward()
    assert copy.grad is not None
    torch.testing.assert_close(told.grad, 0.1 * copy.grad, rtol=1e-4, atol=1e-7)


def test_a_voice_needs_its_pitch():
    with pytest.raises(ValueError, match=r"voice_pitch is \(1,\), expected \(2,\)"):
        Frontend(CONFIG, torch.zeros(1))


@pytest.mark.parametrize("wrong", [{"phones": 0}, {"hidden": 18, "heads": 4}, {"kernel": 4}, {"dropout": math.nan}])
def test_configurations_that_are_none(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        FrontendConfig(**{"phones": 3, **wrong})
