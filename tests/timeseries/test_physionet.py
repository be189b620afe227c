"""The hospital stays: how they are read, what is held out, and how imputations are scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from degauss.core.errors import InputError
from degauss.core.places import data_root
from degauss.timeseries.csdi import Units
from degauss.timeseries.metrics import csdi_quantile_loss
from degauss.timeseries.physionet import FILE, hold_out, physionet, score

NAN = np.nan


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEGAUSS_DATA", str(tmp_path))
    (tmp_path / "timeseries").mkdir()
    return tmp_path / "timeseries" / FILE


def test_the_archive_is_read(archive):
    hourly = np.arange(2 * 48 * 3, dtype=np.float32).reshape(2, 48, 3)
    hourly[0, 1, 2] = NAN
    np.savez(archive, hourly=hourly, attributes=np.array(["HR", "Temp", "pH"]))
    stays = physionet()
    np.testing.assert_array_equal(stays.values, hourly)
    assert stays.values.dtype == np.float64
    assert stays.names == ("HR", "Temp", "pH")


def test_archives_that_are_none(archive):
    with pytest.raises(InputError, match="no such file; expected PhysioNet 2012 set A there, so set DEGAUSS_DATA"):
        physionet()
    archive.write_bytes(b"no archive")
    with pytest.raises(InputError, match="is not the PhysioNet 2012 archive"):
        physionet()
    np.savez(archive, hourly=np.zeros((2, 48, 3)))
    with pytest.raises(InputError, match=r"is not the PhysioNet 2012 archive .*attributes"):
        physionet()
    np.savez(archive, hourly=np.zeros((2, 24, 3)), attributes=np.array(["a", "b", "c"]))
    with pytest.raises(InputError, match=r"hourly is \(2, 24, 3\) for 3 names"):
        physionet()
    np.savez(archive, hourly=np.array([{"a": 1}], dtype=object), attributes=np.array(["a"]))
    with pytest.raises(InputError, match="is not the PhysioNet 2012 archive"):
        physionet()


@pytest.mark.skipif(not (data_root() / "timeseries" / FILE).is_file(), reason="needs PhysioNet 2012 in DEGAUSS_DATA")
def test_the_published_size():
    stays = physionet()
    assert stays.values.shape == (4000, 48, 35)
    assert np.isnan(stays.values).mean() == pytest.approx(0.8163, abs=5e-5)
    assert len(set(stays.names)) == 35
    assert {"HR", "Temp", "pH"} <= set(stays.names)


def test_a_share_of_each_window_is_held_out():
    values = np.random.default_rng(0).normal(size=(5, 48, 7))
    values[np.random.default_rng(1).random(values.shape) < 0.8] = NAN
    values[4] = NAN
    known, target = hold_out(values, 0.1, seed=3)
    observed = (~np.isnan(values)).sum((1, 2))
    np.testing.assert_array_equal((~np.isnan(target)).sum((1, 2)), observed // 10)
    assert not (~np.isnan(known) & ~np.isnan(target)).any()
    np.testing.assert_array_equal(np.where(np.isnan(known), target, known), values)


def test_what_is_held_out_follows_the_seed_and_the_place():
    values = np.ones((4, 6, 5))
    known, target = hold_out(values, 0.5, seed=1)
    np.testing.assert_array_equal(target, hold_out(values, 0.5, seed=1).target)
    np.testing.assert_array_equal(known[:2], hold_out(values[:2], 0.5, seed=1).known)
    assert (np.isnan(target) != np.isnan(hold_out(values, 0.5, seed=2).target)).any()
    assert (np.isnan(target[0]) != np.isnan(target[1])).any()
    for share in (0.0, 1.0, NAN):
        with pytest.raises(ValueError, match="share must be between 0 and 1"):
            hold_out(values, share, seed=1)


def test_every_observed_value_may_be_held_out():
    _, target = hold_out(np.ones((2000, 2, 5)), 0.3, seed=0)
    np.testing.assert_allclose((~np.isnan(target)).mean(0), 0.3, atol=5 * (0.21 / 2000) ** 0.5)


def test_scores_are_in_standard_deviations():
    random = np.random.default_rng(0)
    target, drawn = random.normal(size=(2, 6, 3)), random.normal(size=(20, 2, 6, 3))
    target[random.random(target.shape) < 0.5] = NAN
    units = Units(np.array([3.0, -2.0, 0.0]), np.array([10.0, 0.5, 1.0]))
    found = score(target * units.width + units.centre, drawn * units.width + units.centre, units)
    assert found.crps == pytest.approx(csdi_quantile_loss(target, drawn))
    assert found.mae == pytest.approx(np.nanmean(np.abs(np.median(drawn, axis=0) - target)))
    # The control: the same in data units is another number.
    assert abs(csdi_quantile_loss(target * units.width, drawn * units.width) - found.crps) > 0.01


def test_the_score_of_a_point_is_its_absolute_error():
    target = np.array([[[1.0, NAN], [-3.0, 2.0]]])
    units = Units(np.zeros(2), np.ones(2))
    found = score(target, np.zeros((1, 1, 2, 2)), units)
    assert found.mae == pytest.approx(2.0)
    assert found.crps == pytest.approx(1.0)  # sum |y - 0| / sum |y|, at every level on average
    assert score(target, np.where(np.isnan(target), 0, target)[None], units) == (0.0, 0.0)
