"""The command line that every package shares: a static table of verbs, each loaded only when asked for.

A package's `cli.py` is one `Program`. Printing its table imports neither torch nor tyro, so `--help`
answers at once. A verb is a frozen dataclass with a method `run`: its fields are the options (tyro reads
them; `tyro.conf.Positional[...]` makes an argument, the docstring under a field is its help), and `run`
does the work. The module of the dataclass must import nothing heavy itself, so that `VERB --help` stays
quick: torch and the like belong inside `run`. The name `config` is taken.

    PROGRAM = Program(
        name="degauss-audio",
        summary="diffusion models for speech, singing and sound",
        verbs={"enhance": Verb("degauss.audio.commands.enhance:Enhance", "Clean up a recording")},
    )

`VERB --config run.toml` takes options from a TOML file, in tables for nested dataclasses; flags win over
the file. `write_resolved_config` writes what was in force in the same form, so a run can be repeated.
A user's mistake (`InputError`) is one line on stderr and exit status 2; ctrl-C is one line and 130.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Protocol, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from degauss.core.errors import InputError, Stopped, near_miss

T = TypeVar("T")

PROVENANCE = "provenance"  # the table of a resolved config that says where it came from; never an option


class Command(Protocol):
    """What a verb's dataclass must offer."""

    def run(self) -> None: ...


@dataclass(frozen=True)
class Verb:
    """Where a verb's dataclass lives (`"module:Class"`) and what it does, in one line."""

    target: str
    summary: str

    def load(self) -> type[Command]:
        import importlib

        module, _, name = self.target.partition(":")
        return cast("type[Command]", getattr(importlib.import_module(module), name))


@dataclass(frozen=True)
class Program:
    """A command line: its name (also its distribution's), one line about it, and its verbs.

    A verb may be two words (`"claims run"`).
    """

    name: str
    summary: str
    verbs: Mapping[str, Verb] = field(default_factory=dict[str, Verb])
    distribution: str = ""

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run one command line (`sys.argv[1:]` unless given) and return its exit status."""
        words = list(sys.argv[1:] if argv is None else argv)
        try:
            status = self._dispatch(words)
            sys.stdout.flush()
            return status
        except InputError as error:
            print(f"{self.name}: error: {error}", file=sys.stderr)
            return 2
        except Stopped as stop:
            print(f"{self.name}: {stop}", file=sys.stderr)
            return stop.exit_code
        except KeyboardInterrupt:
            print(f"{self.name}: stopped", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # Whoever read our output has left, as in `| head`: end quietly, and let no later flush complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141

    def table(self) -> str:
        """The text of `--help`: every verb with its line."""
        head = f"{self.name}: {self.summary}\n"
        if not self.verbs:
            return f"{head}\nThis package has no method yet.\n"
        width = max(len(name) for name in self.verbs)
        rows = "".join(f"  {name:<{width}}  {verb.summary}\n" for name, verb in self.verbs.items())
        return (
            f"{head}\nusage: {self.name} VERB [options]\n\n{rows}\n"
            f"{self.name} VERB --help lists the options of a verb; --config FILE.toml gives them in a file.\n"
        )

    def version(self) -> str:
        from importlib.metadata import version

        return version(self.distribution or self.name)

    def _dispatch(self, words: list[str]) -> int:
        if not words or words[0] in ("-h", "--help"):
            print(self.table(), end="")
            return 0
        if words[0] == "--version":
            print(f"{self.name} {self.version()}")
            return 0
        name, rest = self._split(words)
        command = self.verbs[name].load()
        parse(command, rest, prog=f"{self.name} {name}").run()
        return 0

    def _split(self, words: list[str]) -> tuple[str, list[str]]:
        """Take the verb, of one word or two, off the front of the words."""
        if words[0] in self.verbs:
            return words[0], words[1:]
        pair = " ".join(words[:2])
        if pair in self.verbs:
            return pair, words[2:]
        if not self.verbs:
            raise InputError(f"there is no verb {words[0]!r}: this package has no method yet.")
        family = [name for name in self.verbs if name.startswith(f"{words[0]} ")]
        if family:
            raise InputError(f"{words[0]!r} must be followed by a second word: {', '.join(family)}.")
        raise InputError(
            f"there is no verb {words[0]!r}{near_miss(words[0], self.verbs)}; the verbs are {', '.join(self.verbs)}."
        )


def parse(config: type[T], words: Sequence[str], prog: str) -> T:
    """Make `config` from command-line words; `--config FILE.toml` among them supplies the defaults."""
    import inspect
    from contextlib import redirect_stderr
    from io import StringIO

    import tyro

    rest, path = _take_config_option(list(words))
    about = f"{inspect.getdoc(config) or ''}\n\n--config FILE.toml supplies options; flags win over it."
    default: Any = tyro.MISSING_NONPROP if path is None else load_config(config, path)
    said = StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(config, args=rest, prog=prog, description=about, default=default)
    except SystemExit as stop:
        # tyro frames what a dataclass says about its own values; ours is one line like any other.
        cause: BaseException | None = stop
        while cause is not None:
            if isinstance(cause, InputError):
                said.truncate(0)
                raise cause from None
            cause = cause.__context__
        raise
    finally:
        sys.stderr.write(said.getvalue())


def _take_config_option(words: list[str]) -> tuple[list[str], Path | None]:
    """Split `--config PATH` or `--config=PATH` from the other words."""
    for at, word in enumerate(words):
        if word == "--config":
            if at + 1 == len(words):
                raise InputError("--config must be followed by the path of a TOML file.")
            return words[:at] + words[at + 2 :], Path(words[at + 1])
        if word.startswith("--config="):
            return words[:at] + words[at + 1 :], Path(word.removeprefix("--config="))
    return words, None


def load_config(config: type[T], path: Path) -> T:
    """Read the fields of `config` from a TOML file; fields it leaves out keep their defaults.

    A field without a default that the file leaves out is `tyro.MISSING`, so the result is meant as
    `default=` of tyro, which then asks for it; `__post_init__` has not run yet.

    Raises:
        InputError: the file cannot be read as TOML, names an unknown option, or has a value of
            another type.
    """
    import tomllib

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: the config file cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the config file is not TOML ({error}).") from error
    table.pop(PROVENANCE, None)
    return _overlay(config, table, base=None, where=f"{path}: ")


def _overlay(config: type[T], table: Mapping[str, object], base: object, where: str) -> T:
    """An instance of `config` from the table, else from `base`, else from the fields' own defaults."""
    import tyro

    hints = get_type_hints(config)
    slots = {slot.name: slot for slot in fields(cast("Any", config)) if slot.init}
    given = {key.replace("-", "_"): value for key, value in table.items()}
    for key in given:
        if key not in slots:
            raise InputError(f"{where}{key} is not an option{near_miss(key, slots)}.")
    # The final instance is made by tyro, with its checks; this one may still lack required fields.
    instance = object.__new__(config)
    for name, slot in slots.items():
        if base is not None:
            value = getattr(base, name)
        elif slot.default is not MISSING:
            value = slot.default
        elif slot.default_factory is not MISSING:
            value = slot.default_factory()
        else:
            value = tyro.MISSING
        if name in given:
            value = _typed(given[name], hints[name], value, f"{where}{name}")
        object.__setattr__(instance, name, value)
    return instance


def _typed(value: object, hint: Any, base: object, where: str) -> object:
    """A TOML value as the type that the field asks for, or InputError naming the field."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        options = [option for option in inner if option is not NoneType]
        for option in options[:-1]:
            try:
                return _typed(value, option, base, where)
            except InputError:
                continue
        return _typed(value, options[-1], base, where)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        nested = base if isinstance(base, kind) else None
        return _overlay(kind, cast("dict[str, object]", value), nested, f"{where}.")
    if kind in (tuple, list) and isinstance(value, list):
        members = cast("list[object]", value)
        each = list(inner) if kind is tuple and inner[-1:] != (Ellipsis,) else [inner[0]] * len(members)
        if len(each) == len(members):
            made = [
                _typed(member, wanted, None, f"{where}[{i}]")
                for i, (member, wanted) in enumerate(zip(members, each, strict=True))
            ]
            return tuple(made) if kind is tuple else made
    if kind is Literal and value in inner:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return cast("object", value)
    if kind is Literal:
        expected = f"one of {', '.join(map(repr, inner))}"
    else:
        expected = str(hint) if inner else getattr(hint, "__name__", str(hint))
    raise InputError(f"{where} must be {expected}, but is {value!r}.")


def write_resolved_config(path: Path, config: object, **facts: str | int | float) -> None:
    """Write a config dataclass as TOML that `--config` reads again, with a table of where it came from.

    The table `provenance` holds `facts` (say `seed`, `checkpoint_sha256`), the versions of Python,
    degauss-core, numpy and torch, and the date in UTC. Fields that are None are left out. The file
    appears whole or not at all.
    """
    from degauss.core.files import atomic_path

    body = _toml(_plain(config)) + "\n" + _toml({PROVENANCE: {**facts, **provenance()}})
    with atomic_path(path) as part:
        part.write_text(body, encoding="utf-8")


def provenance() -> dict[str, str]:
    """The versions in use and the time now (UTC), for what a run leaves behind."""
    import platform
    from datetime import UTC, datetime
    from importlib.metadata import PackageNotFoundError, version

    found = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version()}
    for name in ("degauss-core", "numpy", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from source, without installing
            found[name] = "unknown"
    return found


def _plain(config: object) -> dict[str, object]:
    """The fields of a dataclass, nested ones as dictionaries, without those that are None."""
    found = {slot.name: getattr(config, slot.name) for slot in fields(cast("Any", config)) if slot.init}
    return {name: _plain(value) if is_dataclass(value) else value for name, value in found.items() if value is not None}


def _toml(table: Mapping[str, object], prefix: str = "") -> str:
    """TOML of a table: its values first, then its tables."""
    lines: list[str] = []
    nested: list[str] = []
    for key, value in table.items():
        if isinstance(value, dict):
            name = f"{prefix}{key}"
            nested.append(f"\n[{name}]\n{_toml(cast('dict[str, object]', value), f'{name}.')}")
        else:
            lines.append(f"{key} = {_toml_value(value)}\n")
    return "".join(lines + nested)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, cast('Sequence[object]', value)))}]"
    if isinstance(value, str | Path):
        import json

        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    raise TypeError(f"a config field must be a bool, number, string, path or sequence, got {value!r}")


PROGRAM = Program(
    name="degauss",
    distribution="degauss-core",
    summary="diffusion models for data that is not images",
    verbs={
        "doctor": Verb("degauss.core.commands:Doctor", "Say what this machine offers"),
        "domains": Verb("degauss.core.commands:Domains", "List the domain packages that are installed"),
        "claims list": Verb("degauss.core.commands:ClaimsList", "List the claims and their verdicts"),
        "claims run": Verb("degauss.core.commands:ClaimsRun", "Run claims, all or those named"),
        "claims table": Verb("degauss.core.commands:ClaimsTable", "Write the text of CLAIMS.md"),
        "claims guide": Verb("degauss.core.commands:ClaimsGuide", "Write the page on choosing, from the records"),
        "compare": Verb("degauss.core.commands:Compare", "Draw error against evaluations of solvers on a denoiser"),
        "calibrate": Verb("degauss.core.commands:Calibrate", "Fit a solver to a model and keep it as a file"),
        "choose": Verb("degauss.core.commands:Choose", "Try solvers on a model and say which is best"),
    },
)


def main() -> int:
    """Run the command line and return its exit status."""
    return PROGRAM.main()
