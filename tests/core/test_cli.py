"""The shared command line: dispatch, config files, resolved configs, errors in one line."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tyro.conf import Positional

from degauss.core import cli
from degauss.core.cli import Program, Verb, load_config, parse, write_resolved_config
from degauss.core.errors import InputError


@dataclass(frozen=True)
class Guide:
    scale: float = 1.0
    kind: Literal["quantile", "square"] = "quantile"


@dataclass(frozen=True)
class Draw:
    """Draw samples."""

    source: Positional[Path]
    """Where to read."""
    steps: int = 20
    quantiles: tuple[float, ...] = (0.1, 0.9)
    label: str | None = None
    fast: bool = False
    limits: tuple[int, float] = (1, 2.0)
    guide: Guide = field(default_factory=Guide)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"--steps must be at least 1, but is {self.steps}.")

    def run(self) -> None:
        print(self)
        if self.label == "broken":
            raise InputError(f"{self.source}: this cannot be read.")
        if self.label == "stopped":
            raise KeyboardInterrupt


PROGRAM = Program(
    name="degauss-demo",
    distribution="degauss-core",
    summary="a demonstration",
    verbs={
        "draw": Verb(f"{__name__}:Draw", "Draw samples"),
        "pen list": Verb(f"{__name__}:Draw", "List pens"),
        "pen take": Verb(f"{__name__}:Draw", "Take a pen"),
    },
)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In importlib mode a test module cannot be imported by its name: hand the class over."""
    monkeypatch.setattr(Verb, "load", lambda self: Draw)


def draw(*words: str) -> Draw:
    return parse(Draw, words, prog="degauss-demo draw")


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_the_table_lists_every_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAM.main(words) == 0
    out = capsys.readouterr().out
    assert "degauss-demo: a demonstration" in out
    for name, verb in PROGRAM.verbs.items():
        assert name in out
        assert verb.summary in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAM.main(["--version"]) == 0
    name, version = capsys.readouterr().out.split()
    assert name == "degauss-demo"
    assert version[0].isdigit()


def test_a_verb_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAM.main(["draw", "a.csv", "--steps", "3", "--guide.scale", "2.5"]) == 0
    assert "steps=3" in capsys.readouterr().out
    assert PROGRAM.main(["pen", "list", "a.csv"]) == 0


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["drow"], 2, "degauss-demo: error: there is no verb 'drow' (did you mean 'draw'?)"),
        (["pen"], 2, "degauss-demo: error: 'pen' must be followed by a second word: pen list, pen take."),
        (["draw", "a", "--label", "broken"], 2, "degauss-demo: error: a: this cannot be read."),
        (["draw", "a", "--steps", "0"], 2, "degauss-demo: error: --steps must be at least 1, but is 0."),
        (["draw", "a", "--config"], 2, "degauss-demo: error: --config must be followed by"),
        (["draw", "a", "--label", "stopped"], 130, "degauss-demo: stopped"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], status: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAM.main(words) == status
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_an_unknown_option_exits_with_two() -> None:
    with pytest.raises(SystemExit, match="2"):
        PROGRAM.main(["draw", "a", "--stepz", "3"])


def test_other_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Draw) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Draw, "run", fail)
    with pytest.raises(ValueError, match="a bug"):
        PROGRAM.main(["draw", "a"])


def test_a_config_file_supplies_options_and_flags_win(tmp_path: Path) -> None:
    path = toml(
        tmp_path,
        'source = "b.csv"\nsteps = 7\nquantiles = [0.5, 1]\nfast = true\nlabel = "x"\nlimits = [3, 4]\n'
        '[guide]\nkind = "square"\n',
    )
    made = draw("--config", str(path))
    assert made == Draw(Path("b.csv"), 7, (0.5, 1.0), "x", True, (3, 4.0), Guide(1.0, "square"))
    assert isinstance(made.quantiles[1], float)
    won = draw(f"--config={path}", "c.csv", "--steps", "9", "--guide.scale", "0.5", "--no-fast")
    assert won == Draw(Path("c.csv"), 9, (0.5, 1.0), "x", False, (3, 4.0), Guide(0.5, "square"))


def test_what_the_file_leaves_out_is_still_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        draw("--config", str(toml(tmp_path, "steps = 7\n")))
    assert "PATH" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("stepz = 3", r"run\.toml: stepz is not an option \(did you mean 'steps'\?\)\."),
        ("[guide]\nscal = 3", r"run\.toml: guide\.scal is not an option"),
        ('steps = "3"', r"run\.toml: steps must be int, but is '3'\."),
        ("steps = true", r"run\.toml: steps must be int, but is True\."),
        ("steps = 3.5", r"run\.toml: steps must be int, but is 3\.5\."),
        ("quantiles = 0.5", r"run\.toml: quantiles must be tuple\[float, \.\.\.\], but is 0\.5\."),
        ('quantiles = ["a"]', r"run\.toml: quantiles\[0\] must be float, but is 'a'\."),
        ("limits = [1]", r"run\.toml: limits must be tuple\[int, float\], but is \[1\]\."),
        ("guide = 3", r"run\.toml: guide must be Guide, but is 3\."),
        ('[guide]\nkind = "x"', r"run\.toml: guide\.kind must be one of 'quantile', 'square', but is 'x'\."),
        ("label = 3", r"run\.toml: label must be str, but is 3\."),
        ("steps = ", r"run\.toml: the config file is not TOML"),
    ],
)
def test_a_bad_config_names_file_and_field(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        load_config(Draw, toml(tmp_path, text))


def test_a_missing_config_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: the config file cannot be read"):
        load_config(Draw, tmp_path / "none.toml")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    made=st.builds(
        Draw,
        source=texts.filter(bool).map(lambda text: Path(text.replace("\0", ""))),
        steps=st.integers(1, 10**6),
        quantiles=st.lists(st.floats(allow_nan=False)).map(tuple),
        label=texts,
        fast=st.booleans(),
        limits=st.tuples(st.integers(-(10**6), 10**6), st.floats(allow_nan=False)),
        guide=st.builds(Guide, st.floats(allow_nan=False), st.sampled_from(["quantile", "square"])),
    )
)
def test_a_resolved_config_reads_back_equal(made: Draw, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("config") / "resolved.toml"
    write_resolved_config(path, made, seed=3)
    assert draw("--config", str(path)) == made


def test_a_resolved_config_says_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "resolved.toml"
    write_resolved_config(path, Draw(Path("a.csv")), seed=3, checkpoint_sha256="ab")
    table: dict[str, Any] = tomllib.loads(path.read_text())
    assert table["source"] == "a.csv"
    assert "label" not in table  # None has no TOML
    origin = table[cli.PROVENANCE]
    assert (origin["seed"], origin["checkpoint_sha256"]) == (3, "ab")
    assert origin["date"].endswith("+00:00")
    assert {"python", "degauss-core", "numpy", "torch"} <= set(origin)
    assert list(tmp_path.iterdir()) == [path]


def test_a_config_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Odd:
        hook: Callable[[], None] = print

    with pytest.raises(TypeError, match="config field"):
        write_resolved_config(tmp_path / "resolved.toml", Odd())
    assert not list(tmp_path.iterdir())
