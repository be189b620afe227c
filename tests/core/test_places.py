from __future__ import annotations

from pathlib import Path

import pytest

from degauss.core.places import cache_root, checkout, data_root


def test_data_lie_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEGAUSS_DATA", str(tmp_path))
    assert data_root() == tmp_path


def test_without_it_beside_the_checkout_or_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DEGAUSS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = Path(__file__).resolve().parents[2]
    assert checkout() == root
    beside = root.parent / "shared" / "data"
    assert data_root() == (beside if beside.is_dir() else tmp_path / "degauss")
    # As it is where the package is installed alone.
    monkeypatch.setattr("degauss.core.places._HERE", tmp_path / "a" / "b" / "places.py")
    assert checkout() is None
    assert data_root() == cache_root() == tmp_path / "degauss"


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == Path.home() / ".cache" / "degauss"
