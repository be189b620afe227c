"""Rooms: their geometry, their time of reverberation, and the dry target that is the direct sound alone."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable

import pytest
import torch

from degauss.audio.mixtures import Mixtures, active_level
from degauss.audio.rooms import Reverberant, Room, SomeInRooms, drawn_room, heard, in_room, responses
from degauss.audio.synthetic import white
from degauss.core.errors import InputError

RATE = 8000
HALL = Room((9.0, 7.0, 3.0), 0.5, (2.0, 3.0, 1.5), (6.0, 4.0, 1.2))


def needs_pyroomacoustics(test: Callable) -> Callable:
    pytest.importorskip("pyroomacoustics")
    return test


def test_rooms_are_drawn_within_their_ranges_and_by_number() -> None:
    rooms = [drawn_room(3, number) for number in range(60)]
    assert rooms[7] == drawn_room(3, 7) != drawn_room(4, 7)
    for room in rooms:
        assert all(low <= side <= high for side, (low, high) in zip(room.size, ((5, 15), (5, 15), (2, 6)), strict=True))
        assert 0.4 <= room.t60 <= 1.0
    assert max(room.t60 for room in rooms) - min(room.t60 for room in rooms) > 0.5


def test_the_walls_absorb_what_sabine_asks() -> None:
    """t60 = 0.161 V / (S a) in seconds and metres."""
    volume, surface = 9 * 7 * 3, 2 * (9 * 7 + 7 * 3 + 9 * 3)
    assert HALL.absorption == pytest.approx(0.1611 * volume / (surface * 0.5), rel=2e-3)


def test_a_room_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="source must be inside"):
        Room((5.0, 5.0, 2.0), 0.5, (6.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="t60 must be at least"):
        Room((9.0, 7.0, 3.0), 0.05, (2.0, 3.0, 1.5), (6.0, 4.0, 1.2))


def test_through_a_response_is_a_convolution() -> None:
    x, response = white(300).double(), white(50, 1).double()
    want = torch.nn.functional.conv1d(x[None], response.flip(0)[None, None], padding=49)[0, :300]
    torch.testing.assert_close(heard(x, response), want)


@needs_pyroomacoustics
def test_the_dry_response_is_the_direct_sound() -> None:
    """All but some hundredths of its energy come at distance / c, where the wet one has the same first arrival."""
    wet, dry = responses(HALL, RATE)
    arrival = int(dry.abs().argmax())
    assert abs(arrival - int(wet[: arrival + 20].abs().argmax())) <= 1
    near = dry[max(0, arrival - 40) : arrival + 41]
    assert float(near.square().sum() / dry.square().sum()) > 0.95
    assert float(wet.square().sum() / dry.square().sum()) > 3
    # The filter of fractional delays is 81 samples long and centred, so it adds 40 to the time of flight.
    assert arrival == pytest.approx(HALL.distance / 343.0 * RATE + 40, abs=2)


@needs_pyroomacoustics
@pytest.mark.parametrize("t60", [0.4, 0.9])
def test_the_room_rings_as_long_as_it_was_asked_to(t60: float) -> None:
    """Schroeder's backward integral from -5 to -25 dB; image rooms decay somewhat slower than Sabine says."""
    wet = responses(Room(HALL.size, t60, HALL.source, HALL.microphone), RATE).wet
    left = 10 * torch.log10(wet.double().square().flip(0).cumsum(0).flip(0))
    left = left - left[0]
    first, last = (int((left < level).int().argmax()) for level in (-5, -25))
    assert 3 * (last - first) / RATE == pytest.approx(t60, rel=0.4)


@needs_pyroomacoustics
def test_pairs_are_the_same_speech_twice() -> None:
    words = [[torch.sin(2 * math.pi * f * torch.arange(2400) / RATE) for f in (200, 330)]]
    data = Reverberant(Mixtures(words, [white(800)], RATE, seconds=1.0, seed=5))
    pairs = data([2, 0])
    assert pairs.noisy.shape == pairs.clean.shape == (2, RATE)
    assert torch.equal(data([0]).noisy[0], pairs.noisy[1])
    for wet, dry in zip(pairs.noisy, pairs.clean, strict=True):
        assert float(torch.maximum(wet.abs().max(), dry.abs().max())) == pytest.approx(1.0)
        # A room fills the pauses.
        assert active_level(wet, RATE).activity >= active_level(dry, RATE).activity
        assert float((wet - dry).square().mean()) > 0.05 * float(dry.square().mean())


WORDS = [[torch.sin(2 * math.pi * f * torch.arange(2400) / RATE) for f in (200, 330)]]


@needs_pyroomacoustics
def test_a_share_of_mixtures_is_in_rooms() -> None:
    """The others are as without rooms; those in rooms have a dry target, and the noise at the ratio that was asked."""
    mixtures = Mixtures(WORDS, [white(RATE)], RATE, seconds=1.0, snr=(6.0, 6.0), tilt=0.0, seed=5)
    some = SomeInRooms(mixtures, 0.4, count=3)
    plain = [all(map(torch.equal, some.pair(k), mixtures.pair(k))) for k in range(40)]
    assert 16 <= sum(plain) <= 32  # 24 are expected
    number = plain.index(False)
    clean, noisy = some.pair(number)
    dry, wet = in_room(mixtures, number, number % 3)
    scale = float(clean @ dry / (dry @ dry))
    torch.testing.assert_close(clean, scale * dry)
    noise = noisy - scale * wet
    ratio = active_level(scale * wet, RATE).power / float(noise.double().square().mean())
    assert 10 * math.log10(ratio) == pytest.approx(6.0, abs=1e-3)
    assert float(torch.maximum(clean.abs().max(), noisy.abs().max())) == pytest.approx(1.0)
    assert torch.equal(some([number, 0]).noisy[0], noisy)


@needs_pyroomacoustics
def test_as_many_rooms_as_asked() -> None:
    """Two numbers that are alike modulo the count share a room; and all shares are honoured at their ends."""
    mixtures = Mixtures(WORDS, [torch.zeros(1)], RATE, seconds=0.5, seed=1)
    one = SomeInRooms(mixtures, 1.0, count=1)
    room = responses(drawn_room(1, 0), RATE)
    for number in (0, 3):
        clean, noisy = one.pair(number)
        wet, dry = (heard(mixtures.said(number), part) for part in room)
        peak = max(float(dry.abs().max()), float(wet.abs().max()))
        torch.testing.assert_close(torch.stack((clean, noisy)), torch.stack((dry, wet)) / peak)
    none = SomeInRooms(mixtures, 0.0)
    assert all(torch.equal(*none.pair(number)) for number in range(5))  # no room, and silence for noise
    for wrong in (-0.1, 1.1):
        with pytest.raises(InputError, match="rooms"):
            SomeInRooms(mixtures, wrong)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest, **named):
        if name == "pyroomacoustics":
            raise ModuleNotFoundError("No module named 'pyroomacoustics'", name=name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    responses.cache_clear()  # what is kept needs no import
    with pytest.raises(ImportError, match=r"degauss-audio\[rooms\]"):
        responses(HALL, RATE)
