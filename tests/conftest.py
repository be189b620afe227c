"""For every test: one thread, so that test workers do not contend; no display; no deadlines; a command line to run."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for processes that tests start
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import pytest
import torch

from degauss.core.cli import Program
from degauss.core.errors import InputError

torch.set_num_threads(1)

hypothesis.settings.register_profile("degauss", deadline=None)
hypothesis.settings.load_profile("degauss")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


Answer = tuple[int, str, str]
"""Of a command line: its exit status, stdout and stderr."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, where it runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def invoke(
    program: Program, here: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[Sequence[str | Path]], Answer]:
    """The answer to the words of a whole command line. ``program``: a domain's, from its own conftest."""

    def command(words: Sequence[str | Path]) -> Answer:
        capsys.readouterr()
        try:
            status = program.main([str(word) for word in words])
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return command


@pytest.fixture
def refusal(program: Program, here: Path) -> Callable[[Callable[[], Answer]], str]:
    """The one line of a command that must fail as a user's mistake does, and write nothing."""

    def refused(command: Callable[[], Answer]) -> str:
        before = sorted(here.rglob("*"))
        status, out, error = command()
        assert (status, out) == (2, "")
        assert error.startswith(f"{program.name}: error: ")
        assert error.endswith("\n")
        assert error.count("\n") == 1
        assert "Traceback" not in error
        assert sorted(here.rglob("*")) == before
        return error.removeprefix(f"{program.name}: error: ").strip()

    return refused


@pytest.fixture
def refused(
    invoke: Callable[[Sequence[str | Path]], Answer], refusal: Callable[[Callable[[], Answer]], str]
) -> Callable[[Sequence[str | Path]], str]:
    """A command line that must be refused, writing nothing -> its one sentence."""
    return lambda words: refusal(lambda: invoke(words))


@pytest.fixture
def example(examples: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """An example as a module, gone afterwards with its neighbours. ``examples``: a domain's, from its own conftest."""
    monkeypatch.syspath_prepend(str(examples))
    yield importlib.import_module
    for path in examples.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def started(
    example: Callable[[str], ModuleType],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """An example run as from the command line -> what it printed."""

    def run(name: str, *words: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        example(name).main()
        return capsys.readouterr().out

    return run


T = TypeVar("T")


@pytest.fixture(scope="session")
def or_skip() -> Callable[[Callable[[], T]], T]:
    """What a reader of real data reads, or a skip that says where the data was looked for."""

    def read(reader: Callable[[], T]) -> T:
        try:
            return reader()
        except InputError as error:
            if "DEGAUSS_DATA" in str(error):
                pytest.skip(str(error))
            raise

    return read
