"""Training windows: equally likely, padded at the beginning, functions of the sample number."""

from __future__ import annotations

import numpy as np
import pytest

from degauss.core.errors import InputError
from degauss.timeseries.config import TSDiffConfig
from degauss.timeseries.windows import RandomWindows, tail

CONFIG = TSDiffConfig(context=6, horizon=2, min_context=3, hidden=4, blocks=1, state=4)


def series(count: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.float64)


def test_every_start_of_every_series_is_equally_likely():
    # Windows are known by their last value: 4 .. 11 of the first series, 104 .. 106 of the second, none of the third.
    windows = RandomWindows([series(12), series(7, 100), series(4, 200)], CONFIG)(range(11_000))
    ends, counts = np.unique(windows.values[:, -1], return_counts=True)
    np.testing.assert_array_equal(ends, [*range(4, 12), 104, 105, 106])
    chi_squared = ((counts - 1000.0) ** 2 / 1000).sum()
    assert chi_squared < 29.6  # 0.999 of ten degrees of freedom


def test_a_window_is_a_stretch_padded_at_its_beginning():
    windows = RandomWindows([series(12)], CONFIG)(range(200))
    assert windows.values.shape == windows.seen.shape == (200, 8)
    for values, seen in zip(windows.values.numpy(), windows.seen.numpy(), strict=True):
        count = int(seen.sum())
        assert count >= 5
        np.testing.assert_array_equal(seen, np.arange(8) >= 8 - count)
        np.testing.assert_array_equal(np.diff(values[8 - count :]), 1)
        np.testing.assert_array_equal(values[: 8 - count], values[8 - count])
        assert count == 8 or values[8 - count] == 0


def test_the_reach_of_lags_comes_before_the_window():
    config = TSDiffConfig(context=6, horizon=2, min_context=3, lags=(2, 4), hidden=4, blocks=1, state=4)
    assert RandomWindows([series(20)], config)([0, 1]).values.shape == (2, 12)


def test_gaps_stay_gaps():
    values = series(8)
    values[[2, 5]] = np.nan
    windows = RandomWindows([values], TSDiffConfig(context=6, horizon=2, min_context=6, hidden=4, blocks=1, state=4))(
        [3]
    )
    np.testing.assert_array_equal(windows.seen, [[1, 1, 0, 1, 1, 0, 1, 1]])


def test_a_sample_is_the_same_in_any_batch():
    data = [RandomWindows([series(50)], CONFIG, seed) for seed in (4, 4, 5)]
    whole = data[0](range(20))
    for k in (0, 7, 19):
        np.testing.assert_array_equal(data[1]([k]).values[0], whole.values[k])
    assert (data[2](range(20)).values != whole.values).any()


@pytest.mark.parametrize("lengths", [[], [4], [0, 4, 1]])
def test_too_short(lengths):
    with pytest.raises(InputError, match=rf"longest series has {max(lengths, default=0)} values.* at least 5"):
        RandomWindows([series(count) for count in lengths], CONFIG)


def test_the_shortest_that_will_do():
    windows = RandomWindows([series(5)], CONFIG)([0])
    np.testing.assert_array_equal(windows.values, [[0, 0, 0, 0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(windows.seen, [[0, 0, 0, 1, 1, 1, 1, 1]])


def test_tail():
    np.testing.assert_array_equal(tail(series(5), 3), [2, 3, 4])
    np.testing.assert_array_equal(tail(series(2), 4), [np.nan, np.nan, 0, 1])
    np.testing.assert_array_equal(tail(series(0), 2), [np.nan, np.nan])
