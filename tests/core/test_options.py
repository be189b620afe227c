from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
import torch

from degauss.core.errors import InputError
from degauss.core.options import check_directory, check_file, check_place, device_of, progress


def test_a_file_can_be_written_where_none_is_yet(tmp_path: Path) -> None:
    check_file(tmp_path / "new" / "deeper" / "x.CSV", (".csv", ".tsv"))
    assert not (tmp_path / "new").exists()  # asking leaves nothing behind
    with pytest.raises(InputError, match=r"x\.txt: expected a name that ends in \.csv or \.tsv"):
        check_file(tmp_path / "x.txt", (".csv", ".tsv"))
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match=r"d\.csv: is a directory; expected the name of a file"):
        check_file(tmp_path / "d.csv", (".csv",))


def test_a_directory_is_one_or_can_be_made(tmp_path: Path) -> None:
    check_directory(tmp_path)
    check_directory(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is a file; expected a directory"):
        check_directory(tmp_path / "file")
    with pytest.raises(InputError, match=r"cannot be written, as .*file is not a directory"):
        check_place(tmp_path / "file" / "x")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o500)
    with pytest.raises(InputError, match="not a directory that can be written to"):
        check_place(tmp_path / "theirs" / "x")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of("cpu") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_of("auto") == "cpu"
    with pytest.raises(InputError, match="no CUDA device"):
        device_of("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", True)
    assert device_of("cpu") == "cpu"
    assert torch.backends.cudnn.allow_tf32
    assert [device_of(name) for name in ("auto", "cuda")] == ["cuda", "cuda"]
    assert not torch.backends.cudnn.allow_tf32  # convolutions as on a CPU


def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, drawn in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        with progress("[looking]") as report:
            report(3, 7)
        assert ("[looking]" in stream.getvalue()) is drawn
        assert ("3/7" in stream.getvalue()) is drawn
