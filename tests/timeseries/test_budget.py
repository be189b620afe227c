"""What a time can buy: the pairs tried, the one taken, what it costs against the full setting, and the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degauss.core.errors import InputError
from degauss.timeseries import budget, metrics
from degauss.timeseries.backtest import before, cuts, seen_among
from degauss.timeseries.budget import Budget, Trial, candidates, choose, price, shrink, within
from degauss.timeseries.forecasting import forecast
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Sampling

FULL = Sampling(samples=100, steps=50)
NAN = np.nan


def sine(count: int = 100, name: str = "wave") -> Regular:
    return Regular(name, pd.Timestamp("2024-01-01"), pd.offsets.Day(), np.sin(2 * np.pi * np.arange(count) / 8))


@pytest.fixture
def costs(monkeypatch) -> Callable[[float], None]:
    """Says what an evaluation costs."""

    def told(seconds: float) -> None:
        monkeypatch.setattr(budget, "price", lambda *_: seconds)

    return told


# --- the candidates ---


@settings(max_examples=200, deadline=None)
@given(affordable=st.floats(0, 1e5), steps=st.integers(1, 100), samples=st.integers(1, 300), count=st.integers(2, 6))
def test_every_candidate_can_be_paid_and_wastes_little(affordable, steps, samples, count):
    asked = Sampling(samples=samples, steps=steps)
    pairs = candidates(affordable, asked, count)
    assert len(pairs) <= count
    assert [pair[0] for pair in pairs] == sorted({pair[0] for pair in pairs})
    for one, draws in pairs:
        assert one <= steps
        assert min(20, samples) <= draws <= samples
        assert one * draws <= affordable
        assert draws == samples or one * (draws + 1) > affordable


def test_candidates_by_hand():
    assert candidates(1000, FULL, 5) == [(5, 100), (10, 100), (20, 50), (50, 20)]
    assert candidates(1000, FULL, 2) == [(5, 100), (50, 20)]
    assert candidates(1000, replace(FULL, steps=30), 5) == [(5, 100), (10, 100), (20, 50), (30, 33)]
    assert candidates(99, FULL, 5) == []
    assert candidates(40, Sampling(samples=4, steps=8), 5) == [(5, 4), (8, 4)]


def test_without_validation_steps_go_first_and_then_samples():
    assert (shrink(5000, FULL).steps, shrink(5000, FULL).samples) == (50, 100)
    assert (shrink(1200, FULL).steps, shrink(1200, FULL).samples) == (12, 100)
    assert (shrink(300, FULL).steps, shrink(300, FULL).samples) == (5, 60)
    assert (shrink(1, FULL).steps, shrink(1, FULL).samples) == (5, 20)
    small = Sampling(samples=3, steps=2)
    assert shrink(1, small) == small


# --- the choice ---


def test_where_time_is_enough_nothing_is_tried(tiny, costs):
    costs(1e-6)
    found = choose(tiny, cuts([sine()], 8), 4, FULL, 10.0)
    assert found == Budget(10.0, FULL, FULL)
    assert found.lost == 0
    assert found.sentence() == "50 steps x 100 samples in about 10 s: all that was asked for."


def test_the_best_of_the_curve_is_taken_and_set_beside_the_full_setting(tiny, costs):
    costs(1e-3)
    found = cuts([sine(200)], 8, windows=12)
    asked = Sampling(samples=30, steps=20, seed=3)
    told: list[tuple[int, int]] = []
    validation = before(found, windows=2)
    chosen = choose(tiny, validation, 12, asked, 7.0, lambda *done: told.append(done))
    # 6300 evaluations, 80 % of them for 12 windows and 5 tries on 2: 229 each, which is no 20 samples of 20 steps.
    assert [(one.steps, one.samples) for one in chosen.trials] == [(5, 30), (10, 22)]
    assert told == [(1, 3), (2, 3), (3, 3)]
    best = min(chosen.trials, key=lambda trial: trial.crps)
    assert (chosen.taken.steps, chosen.taken.samples) == (best.steps, best.samples)
    assert chosen.taken == replace(asked, steps=best.steps, samples=best.samples)
    assert chosen.reference is not None
    assert (chosen.reference.steps, chosen.reference.samples) == (20, 30)
    assert chosen.lost == pytest.approx(best.crps / chosen.reference.crps - 1)
    assert (chosen.windows, chosen.targets) == (2, 16)
    assert "% " in chosen.sentence()
    assert chosen.sentence().endswith(" that of 20 x 30, on 16 values in 2 validation windows.")
    for trial in (*chosen.trials, chosen.reference):
        sampling = replace(asked, steps=trial.steps, samples=trial.samples)
        drawn = forecast(tiny, [cut.history for cut in validation], 8, sampling)
        losses = [metrics.crps(cut.target, one) for cut, one in zip(validation, drawn, strict=True)]
        assert trial.crps == pytest.approx(np.mean(losses), rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    windows=st.integers(1, 500),
    series=st.integers(1, 50),
    seconds=st.floats(0.1, 300),
    cost=st.floats(1e-6, 1e-3),
)
def test_the_search_and_the_work_fit_the_time(windows, series, seconds, cost):
    one = sine()
    done: list[tuple[int, int, int]] = []

    def trying(model, seen, sampling):
        done.append((len(seen), sampling.steps, sampling.samples))
        return Trial(sampling.steps, sampling.samples, 1.0, 0.0)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(budget, "price", lambda *_: cost)
        patched.setattr(budget, "_try", trying)
        found = choose(None, cuts([one] * series, 8, windows=1), windows, FULL, seconds)  # type: ignore[arg-type]
    spent = cost * sum(math.prod(one) for one in done)
    work = cost * windows * found.taken.steps * found.taken.samples
    floor = cost * windows * 5 * 20  # less than this is never taken, whatever the time
    assert work <= max(seconds, floor * (1 + 1e-9))
    if done:
        assert spent + work <= seconds
        assert found.taken.samples >= 20


def test_little_time_and_no_past(tiny, costs):
    costs(1.0)
    found = choose(tiny, [], 4, FULL, 10.0)
    assert (found.taken.steps, found.taken.samples, found.trials) == (5, 20, ())
    assert math.isnan(found.lost)
    assert "instead of 50 x 100; there was nothing to measure the loss on" in found.sentence()
    assert choose(tiny, cuts([sine()], 8), 4, FULL, 10.0).trials == ()
    costs(1e-3)
    assert (choose(tiny, [], 4, FULL, 10.0).taken.steps, choose(tiny, [], 4, FULL, 10.0).taken.samples) == (22, 100)


def test_only_what_lies_before_the_first_cutoff_is_looked_at(tiny, costs):
    costs(1e-3)
    one = sine(120)
    found = cuts([one], 8, windows=9, enough=seen_among(16, 24))
    first = found[0].index
    spoilt = replace(one, values=np.where(np.arange(120) < first, one.values, 1e9))
    asked = Sampling(samples=30, steps=20)
    choices = [
        choose(tiny, before(cuts([r], 8, windows=9, enough=seen_among(16, 24))), 9, asked, 5.0) for r in (one, spoilt)
    ]
    assert len(choices[0].trials) == 2
    assert choices[0].taken == choices[1].taken
    assert [trial.crps for trial in choices[0].trials] == [trial.crps for trial in choices[1].trials]


def test_a_reference_that_is_too_dear_is_named():
    curve = (Trial(5, 40, 1.0, 0.1), Trial(10, 20, 1.2, 0.1))
    found = Budget(3.0, FULL, replace(FULL, steps=5, samples=40), curve, Trial(50, 20, 0.8, 1.0), 2, 16)
    assert found.lost == pytest.approx(0.25)
    assert found.sentence() == (
        "5 steps x 40 samples in about 3 s; CRPS 25.0 % above that of 50 x 20 (50 x 100 was too dear to measure), "
        "on 16 values in 2 validation windows."
    )
    assert "CRPS 50.0 % below that of 50 x 20" in replace(found, reference=Trial(50, 20, 2.0, 1.0)).sentence()
    assert found.report()["curve"][1] == {"steps": 10, "samples": 20, "crps": 1.2, "seconds": 0.1}
    assert "CRPS unknown against that of" in replace(found, reference=Trial(50, 20, 0.0, 1.0)).sentence()


def test_where_nothing_dearer_could_be_tried_the_loss_is_unknown():
    curve = (Trial(5, 41, 1.0, 0.1), Trial(10, 20, 1.2, 0.1))
    found = Budget(3.0, FULL, replace(FULL, steps=5, samples=41), curve, curve[0], 1, 8)
    assert math.isnan(found.lost)
    assert found.sentence() == (
        "5 steps x 41 samples in about 3 s, the best and dearest of 2 tried (50 x 100 was too dear to measure), "
        "on 8 values in 1 validation window."
    )


# --- the clock ---


def test_the_price_is_what_the_clock_says(tiny, monkeypatch):
    ticks = iter(np.arange(0.0, 100.0))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    assert price(tiny, 4, Sampling(samples=100)) == pytest.approx(1 / 100)
    assert price(tiny, 1, Sampling(samples=8)) == pytest.approx(1 / 8)


def test_within_never_adds(tiny):
    found = within(tiny, 1, Sampling(samples=3, steps=2), 1000.0)
    assert (found.samples, found.steps) == (3, 2)


@pytest.mark.parametrize("seconds", [0.0, -1.0, NAN])
def test_no_budget(tiny, seconds):
    for call in (lambda: within(tiny, 1, FULL, seconds), lambda: choose(tiny, [], 1, FULL, seconds)):
        with pytest.raises(InputError, match="seconds must be at least"):
            call()
