"""The front is exactly what no other point beats; runs are counted and timed; pictures and tables say the same."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from degauss.audio import metrics, pareto
from degauss.audio.metrics_report import Judge
from degauss.audio.pareto import (
    Point,
    Setting,
    badness,
    front,
    measure,
    non_dominated,
    runner,
    scorer,
    write_points,
)
from degauss.audio.pareto_plot import pareto_plot
from degauss.audio.waves import Wave
from degauss.core.errors import InputError

small = st.integers(0, 4).map(float)  # ties are common
planes = st.lists(st.tuples(small, small), min_size=1, max_size=12)
spaces = st.lists(st.tuples(small, small, small), min_size=1, max_size=10)


def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


@given(st.one_of(planes, spaces))
def test_the_front_is_what_nothing_beats(rows: list[tuple[float, ...]]) -> None:
    kept = non_dominated(rows)
    best = [row for row, good in zip(rows, kept, strict=True) if good]
    assert best
    for row, good in zip(rows, kept, strict=True):
        assert good != any(beats(other, row) for other in rows)
        assert good or any(beats(other, row) for other in best)  # what beats it is itself on the front


@given(planes, st.randoms())
def test_order_and_copies_do_not_matter(rows: list[tuple[float, float]], random) -> None:
    kept = dict(zip(rows, non_dominated(rows), strict=True))
    shuffled = rows + rows
    random.shuffle(shuffled)
    assert non_dominated(shuffled) == [kept[row] for row in shuffled]


@given(planes)
def test_the_front_of_the_front_is_itself_and_survives_scaling(rows: list[tuple[float, float]]) -> None:
    kept = non_dominated(rows)
    best = [row for row, good in zip(rows, kept, strict=True) if good]
    assert all(non_dominated(best))
    assert non_dominated([(7 * a - 3, 0.5 * b + 2) for a, b in rows]) == kept


@given(planes)
def test_along_a_front_more_cost_is_more_quality(rows: list[tuple[float, float]]) -> None:
    points = [Point(f"s-{i}", cost, cost / 10, 1.0, {"si_sdr": quality}) for i, (cost, quality) in enumerate(rows)]
    best = front(points, "evaluations", "si_sdr")
    assert best == front(points, "rtf", "si_sdr")
    for a, b in pairwise(best):
        step = b.evaluations - a.evaluations, b.quality["si_sdr"] - a.quality["si_sdr"]
        assert step == (0, 0) or min(step) > 0


def test_better_is_higher_lower_or_nearer_to_one() -> None:
    assert badness("pesq_wb", 3) < badness("pesq_wb", 2)
    assert badness("mcd", 3) > badness("mcd", 2)
    assert badness("delta_variance", 0.9) < badness("delta_variance", 1.2) < badness("delta_variance", 0.7)
    points = [Point(name, 1, 1, 1, {"delta_variance": value}) for name, value in (("a-1", 0.7), ("b-1", 1.1))]
    assert [point.name for point in front(points, "evaluations", "delta_variance")] == ["b-1"]


# --- measuring ----------------------------------------------------------------------------------------------


def clean(number: int) -> Wave:
    return Wave(torch.randn(1, 16000, generator=torch.Generator().manual_seed(number)), 16000)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes only where a system says so."""
    monkeypatch.setattr(pareto, "time", SimpleNamespace(perf_counter=lambda: now[0]))


now = [0.0]


def system(solver: str, steps: int, item: int) -> tuple[Wave, int]:
    """Halves the noise with each step; "slow" takes two evaluations, and three times as long."""
    noise = torch.randn(1, 16000, generator=torch.Generator().manual_seed(99 + item))
    now[0] += 0.25 * steps * (3 if solver == "slow" else 1)
    wave = clean(item)
    return wave._replace(samples=wave.samples + 0.5**steps * noise), steps * (2 if solver == "slow" else 1)


def points() -> list[Point]:
    settings = [Setting(solver, steps) for solver in ("fast", "slow") for steps in (1, 2, 4)]
    return measure(runner(system, range(3)), settings, scorer([clean(i) for i in range(3)], ("si_sdr", "lsd")))


def test_points_hold_cost_and_quality() -> None:
    found = points()
    assert [point.name for point in found] == ["fast-1", "fast-2", "fast-4", "slow-1", "slow-2", "slow-4"]
    assert [point.evaluations for point in found] == [1, 2, 4, 2, 4, 8]
    for point in found:
        steps = int(point.name[-1])
        assert point.quality["si_sdr"] == pytest.approx(6.02 * steps, abs=0.3)
        assert point.seconds == pytest.approx(3 * 0.25 * steps * (3 if point.name.startswith("slow") else 1))
        assert point.rtf == pytest.approx(point.seconds / 3)  # three items of a second
    assert [point.name for point in front(found, "evaluations", "si_sdr")] == ["fast-1", "fast-2", "fast-4"]


def test_evaluations_are_the_mean_over_items_and_the_warming_is_not_counted() -> None:
    calls: list[int] = []

    def uneven(solver: str, steps: int, item: int) -> tuple[Wave, int]:
        calls.append(item)
        return clean(item), item

    result = runner(uneven, [1, 2, 6])(Setting("x", 1))
    assert calls == [1, 1, 2, 6]
    assert result.evaluations == 3
    assert [bool((a.samples == clean(i).samples).all()) for a, i in zip(result.waves, (1, 2, 6), strict=True)] == [
        True
    ] * 3


def test_scores_are_means_over_the_waves() -> None:
    waves = [clean(4), clean(5)]
    references = [clean(0), clean(1)]
    expected = (
        sum(float(metrics.si_sdr(a.samples[0], b.samples[0])) for a, b in zip(references, waves, strict=True)) / 2
    )
    assert scorer(references, ("si_sdr",))(waves) == {"si_sdr": pytest.approx(expected)}


def test_a_measure_without_a_value_says_why() -> None:
    with pytest.raises(InputError, match=r"si_sdr has no value: the reference lasts 1.000 s, the estimate 0.500 s"):
        scorer([clean(0)], ("si_sdr",))([clean(0)._replace(samples=clean(0).samples[:, :8000])])
    with pytest.raises(InputError, match="wer has no value: it needs words or a voice"):
        scorer([clean(0)], ("wer",), Judge())([clean(0)])


def test_progress_is_reported() -> None:
    said: list[tuple[int, int]] = []
    run = runner(system, [0])
    measure(run, [Setting("fast", 1)] * 2, lambda _: {"si_sdr": 1.0}, lambda done, total: said.append((done, total)))
    assert said == [(0, 2), (1, 2), (2, 2)]


# --- files --------------------------------------------------------------------------------------------------


def test_table_and_json_say_which_are_on_the_fronts(tmp_path: Path) -> None:
    chosen = [
        Point("ddim-2", 2, 0.2, 1.0, {"si_sdr": 5.0, "mcd": 3.0}),
        Point("ddim-4", 4, 0.1, 1.0, {"si_sdr": 5.0, "mcd": 2.0}),
        Point("heun-4", 8, 0.3, 1.0, {"si_sdr": 6.0, "mcd": 2.0}),
    ]
    write_points(tmp_path / "p", chosen, "si_sdr", {"seed": 3})
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["front_evaluations"] for row in rows] == ["True", "False", "True"]
    assert [row["front_rtf"] for row in rows] == ["False", "True", "True"]
    assert [row["mcd"] for row in rows] == ["3.0", "2.0", "2.0"]
    numbers = json.loads((tmp_path / "p.json").read_text())
    assert numbers["facts"] == {"seed": 3}
    assert numbers["points"][2]["front_rtf"] is True


def test_the_picture_is_written(tmp_path: Path) -> None:
    import matplotlib.image

    pareto_plot(tmp_path / "p.png", points(), "si_sdr", "A system & $its$ settings")
    picture = matplotlib.image.imread(tmp_path / "p.png")
    assert picture.shape[:2] == (649, 1500)
    assert picture[..., :3].std() > 0.05
    pareto_plot(tmp_path / "one.png", [Point("a-1", 1, 0.1, 1, {"delta_variance": 0.8})], "delta_variance")
    assert (tmp_path / "one.png").stat().st_size > 5000
