from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from degauss.timeseries.plots import (
    _band,
    _quantile,
    backtest_chart,
    fan_chart,
    imputation_plot,
    missingness_map,
    pit_histogram,
    validation_curve,
)
from degauss.timeseries.regular import Regular

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
MEDIAN, ACTUAL, HOLE = "#0b4f9e", "#d1495b", "#f5f0e8"
BANDS = ("#dceaf8", "#b9d5f1", "#86b6e6")


def count(picture: np.ndarray, color: str) -> int:
    return int((np.abs(picture[..., :3] - to_rgb(color)).max(axis=-1) < 0.01).sum())


def days(start: str, length: int) -> np.ndarray:
    return np.datetime64(start, "ns") + np.arange(length) * np.timedelta64(1, "D")


def fan(spread: float = 1.0, length: int = 40) -> np.ndarray:
    z = np.array([-1.64, -1.28, -0.67, 0, 0.67, 1.28, 1.64])
    return 20 + spread * z[:, None] * np.sqrt(np.arange(1, length + 1))


def test_fan_chart(tmp_path):
    rng = np.random.default_rng(0)
    history = 20 + np.cumsum(rng.normal(size=80)) * 0.1
    history[10:20] = np.nan
    path = tmp_path / "fan.png"
    fan_chart(
        path, days("2024-01-01", 80), history, days("2024-03-21", 40), LEVELS, fan(),
        actual=np.full(40, 21.0), title="A title", y_label="a unit",
    )  # fmt: skip
    picture = imread(path)
    assert picture.shape[:2] == (600, 1200)
    for color in BANDS:
        assert count(picture, color) > 2000
        assert count(picture[100:, :700], color) == 0  # the forecast begins at two thirds
    assert count(picture[100:], MEDIAN) > 200
    assert count(picture[100:], ACTUAL) > 200
    assert [p.name for p in tmp_path.iterdir()] == ["fan.png"]


def test_a_wider_forecast_is_a_wider_fan(tmp_path):
    share = []
    for spread in (0.3, 1.0):
        history = np.linspace(-10, 50, 80)  # holds the axis
        fan_chart(tmp_path / "f.png", np.arange(80), history, np.arange(80, 120), LEVELS, fan(spread))
        share.append(count(imread(tmp_path / "f.png"), BANDS[0]))
    assert 2 < share[1] / share[0] < 5


@pytest.mark.parametrize("history", [np.full(5, np.nan), np.array([1.0, np.nan, 2, np.nan, np.nan]), np.ones(1)])
def test_fan_chart_of_little_history(tmp_path, history):
    samples = np.random.default_rng(0).normal(size=(20, 3))
    fan_chart(
        tmp_path / "f.png", np.arange(len(history)), history, np.arange(5, 8), (0.5,), samples[:1],
        samples=samples,
    )  # fmt: skip
    assert count(imread(tmp_path / "f.png"), BANDS[2]) > 100


def test_bands_are_given_interpolated_sampled_or_left_out():
    deciles = tuple(i / 10 for i in range(1, 10))
    quantiles = np.arange(1.0, 10)[:, None]
    samples = np.linspace(0, 10, 101)[:, None]
    for level, expected in ((0.5, (2.5, 7.5)), (0.8, (1, 9)), (0.6, (2, 8))):
        band = _band(level, deciles, quantiles, None)
        assert band is not None
        np.testing.assert_allclose(np.ravel(band), expected)
    assert _band(0.9, deciles, quantiles, None) is None
    band = _band(0.9, deciles, quantiles, samples)
    assert band is not None
    np.testing.assert_allclose(np.ravel(band), [0.5, 9.5])
    assert _quantile(0.5, (), np.empty((0, 1)), None) is None


def test_imputation_plot(tmp_path):
    length = 200
    truth = 20 + np.sin(np.arange(length) / 8) * 5
    observed = truth.copy()
    observed[60:120] = np.nan
    observed[150] = np.nan
    z = np.array([-1.64, -1.28, -0.67, 0, 0.67, 1.28, 1.64])
    path = tmp_path / "i.png"
    imputation_plot(
        path, days("2024-03-01", length), observed, LEVELS, truth + z[:, None], actual=truth, y_label="°C",
        timezone="Europe/Berlin",
    )  # fmt: skip
    picture = imread(path)
    assert picture.shape[:2] == (600, 1200)
    hole = np.abs(picture[75:540, :, :3] - to_rgb(HOLE)).max(axis=-1) < 0.01
    shaded = np.flatnonzero(hole.any(axis=0))
    assert 0.24 < len(shaded) / 1100 < 0.36  # 61 of 200 days
    assert np.diff(shaded).max() > 50  # between the long hole and the single day
    assert count(picture[100:], ACTUAL) > 200


def test_backtest_chart(tmp_path):
    rng = np.random.default_rng(0)
    times, values = days("2024-01-01", 100), 20 + np.cumsum(rng.normal(size=100)) * 0.1
    values[30:40] = np.nan
    widths = []
    for cuts in ((79,), (59, 79)):
        windows = [(times[cut : cut + 21], 20 + rng.normal(size=(50, 20))) for cut in cuts]
        backtest_chart(tmp_path / "b.png", times, values, windows, title="A title", timezone="Europe/Berlin")
        picture = imread(tmp_path / "b.png")
        assert picture.shape[:2] == (600, 1200)
        band = (np.abs(picture[100:, :, :3] - to_rgb(BANDS[2])).max(axis=-1) < 0.01).any(axis=0)
        widths.append(int(band.sum()))
        assert not band[:500].any()
    assert 1.6 < widths[1] / widths[0] < 2.4


def test_validation_curve(tmp_path):
    pairs, scores = [(5, 80), (10, 40), (20, 20)], [0.5, 0.3, 0.4]
    validation_curve(tmp_path / "v.png", pairs, scores, 1, ("50 x 100", 0.25), title="for 3 s")
    picture = imread(tmp_path / "v.png")
    assert picture.shape[:2] == (500, 1200)
    dot = np.abs(picture[100:, :, :3] - to_rgb(ACTUAL)).max(axis=-1) < 0.01
    rows, columns = np.nonzero(dot)
    line = np.abs(picture[100:, :, :3] - to_rgb(MEDIAN)).max(axis=-1) < 0.01
    line_rows, line_columns = np.nonzero(line)
    # The one taken is the lowest of the curve and in its middle.
    assert rows.mean() > np.percentile(line_rows, 90)
    assert abs(columns.mean() - (line_columns.min() + line_columns.max()) / 2) < 20


def test_pit_histogram(tmp_path):
    heights = []
    for values in (np.full(500, 0.01), np.linspace(0, 1, 500), np.empty(0)):
        pit_histogram(tmp_path / "p.png", values)
        picture = imread(tmp_path / "p.png")
        assert picture.shape[:2] == (500, 1200)
        heights.append(count(picture, BANDS[2]))
    assert heights[2] == 0 < heights[0] < heights[1]


def test_missingness_map(tmp_path):
    rng = np.random.default_rng(0)
    import pandas as pd

    parts = []
    for row in range(50):
        values = np.where(rng.random(300) < row / 50, np.nan, 1.0)
        parts.append(Regular(f"series {row}", pd.Timestamp("2020-01-01"), pd.Timedelta(days=1), values))
    missingness_map(tmp_path / "m.png", parts)
    picture = imread(tmp_path / "m.png")
    assert picture.shape[1] == 1200
    body = picture[100:-60]
    top, bottom = body[: len(body) // 4], body[-len(body) // 4 :]
    assert count(top, MEDIAN) > 2 * count(bottom, MEDIAN)
    missingness_map(tmp_path / "one.png", [Regular("x", 0, 1, np.array([1.0]))])


def test_no_picture_is_better_than_half_a_picture(tmp_path):
    with pytest.raises(ValueError, match=r"shape|size|broadcast|dimension"):
        fan_chart(tmp_path / "f.png", np.arange(5), np.ones(5), np.arange(5, 9), (0.5,), np.ones((1, 3)))
    assert list(tmp_path.iterdir()) == []


def test_pictures_need_no_pyplot(tmp_path):
    code = (
        "import sys, numpy as np\nfrom degauss.timeseries.plots import pit_histogram\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"pit_histogram({str(tmp_path / 'p.png')!r}, np.linspace(0, 1, 9))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
