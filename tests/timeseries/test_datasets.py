from __future__ import annotations

import tarfile

import numpy as np
import pytest

from degauss.core.errors import InputError
from degauss.core.places import data_root
from degauss.timeseries.datasets import co2, exchange_rate
from degauss.timeseries.metrics import mean_weighted_quantile_loss, nd, sample_quantiles
from degauss.timeseries.naive import last_value, last_value_ensemble, seasonal_naive
from degauss.timeseries.regular import future_index, regularise, season_length

ARCHIVE = data_root() / "timeseries" / "exchange_rate_nips.tar.gz"
needs_exchange_rate = pytest.mark.skipif(
    not ARCHIVE.is_file(), reason="the exchange-rate set is not under DEGAUSS_DATA"
)


@needs_exchange_rate
def test_exchange_rate_has_the_split_of_the_papers():
    data = exchange_rate()
    assert [len(s.values) for s in data.train] == [6071] * 8
    assert [len(s.values) for s in data.test] == [6101 + 30 * w for w in range(5) for _ in range(8)]
    assert data.horizon == 30
    for row, entry in enumerate(data.test):
        past = data.train[row % 8]
        assert entry.name == past.name
        np.testing.assert_array_equal(entry.values[:6071], past.values)
    one = data.train[0]
    assert str(one.times[0])[:10] == "1990-01-01"
    assert season_length(one.step) == data.season == 5
    weekdays = (one.times.astype("datetime64[D]").astype(np.int64) + 3) % 7
    assert weekdays.max() == 4


@needs_exchange_rate
@pytest.mark.parametrize(("season", "figure"), [(1, ".00931"), (5, ".01075"), (30, ".01296")])
def test_naive_forecasts_score_their_known_figures(season, figure):
    """Sums over all 40 entries; the paper prints .011 for season 5."""
    data = exchange_rate()
    past = [entry.values[: -data.horizon] for entry in data.test]
    target = np.stack([entry.values[-data.horizon :] for entry in data.test])
    point = np.stack([seasonal_naive(values, data.horizon, season) for values in past])
    if season == 1:
        np.testing.assert_array_equal(point, [last_value(values, data.horizon) for values in past])
    score = mean_weighted_quantile_loss(target, np.repeat(point[None], 9, axis=0))
    assert f"{score:.5f}".lstrip("0") == figure
    assert score == pytest.approx(nd(target, point), rel=1e-12)


@needs_exchange_rate
def test_the_last_value_with_its_past_errors_is_the_bar_to_clear():
    data = exchange_rate()
    target = np.stack([entry.values[-data.horizon :] for entry in data.test])
    ensembles = [last_value_ensemble(entry.values[: -data.horizon], data.horizon) for entry in data.test]
    score = mean_weighted_quantile_loss(target, sample_quantiles(np.stack(ensembles, axis=1)))
    assert score == pytest.approx(0.00722, abs=1e-5)


def test_co2_is_a_weekly_record_with_its_gaps():
    table = co2()
    (one,) = table.series
    assert (len(one.times), int(np.isnan(one.values).sum())) == (2284, 59)
    regular = regularise(one)
    assert regular.frequency == "W-SAT"
    assert season_length(regular.step) == 52
    np.testing.assert_array_equal(regular.values, one.values)
    assert regular.moved == 0
    assert str(future_index(regular, 1)[0])[:10] == "2002-01-05"
    assert np.nanmin(one.values) > 310
    assert np.nanmax(one.values) < 375


def test_co2_is_that_of_statsmodels():
    reference = pytest.importorskip("statsmodels.datasets.co2", reason="statsmodels is not installed")
    data = reference.load_pandas().data
    (one,) = co2().series
    np.testing.assert_array_equal(one.values, data["co2"].to_numpy())
    np.testing.assert_array_equal(one.times, data.index.as_unit("ns").to_numpy())


def test_data_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DEGAUSS_DATA", str(tmp_path))
    assert data_root() == tmp_path
    with pytest.raises(InputError, match="DEGAUSS_DATA"):
        exchange_rate()
    (tmp_path / "timeseries").mkdir()
    archive = tmp_path / "timeseries" / "exchange_rate_nips.tar.gz"
    archive.write_bytes(b"not an archive")
    with pytest.raises(InputError, match="is not the exchange-rate archive"):
        exchange_rate()
    with tarfile.open(archive, "w:gz") as empty:
        empty.add(__file__, "other.txt")
    with pytest.raises(InputError, match="is not the exchange-rate archive"):
        exchange_rate()


def test_the_record_comes_with_the_sources(monkeypatch, tmp_path):
    monkeypatch.setattr("degauss.timeseries.datasets._HERE", tmp_path / "a" / "b" / "c" / "d" / "datasets.py")
    with pytest.raises(InputError, match="checkout"):
        co2()
