"""Claims: what a paper says, the smallest honest experiment that could refute it, and what came out.

A claim is a file `packages/<package>/claims/<name>.py` that defines

    CLAIM = Claim(paper="...", statement="...", expected="...")

    def run(seeds: Sequence[int]) -> Result: ...

`run_claim` runs it and writes `<name>.json` beside it: the verdict, each figure for each seed with its
median and range, and the machine, versions and date. `claims_page` makes CLAIMS.md out of those records,
so what is published is what was measured. A record carries the hash of its claim file: a record of an older
text of the claim is *stale* until the claim is run again.

What several claims of a package share lies beside them in a helper `_<name>.py`, and they say
`from ._<name> import ...`. A helper belongs to the text of each claim that names it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast, get_args

from degauss.core.errors import InputError, near_miss

Verdict = Literal["holds", "holds partly", "does not hold"]

PREAMBLE = """\
# Claims

What the papers say, and what came out here. Each claim is a small experiment that could have refuted it;
`make claims` runs them all again and rewrites this page from the records beside them.
"""


@dataclass(frozen=True)
class Claim:
    """What is claimed and what would show it.

    paper: authors, year, title, and the section, table or equation.
    statement: what the paper says, in a sentence.
    expected: what must be measured for the claim to hold, with the number; and the control that must fail,
        where there is one.
    """

    paper: str
    statement: str
    expected: str


@dataclass(frozen=True)
class Result:
    """What an experiment found: the verdict, and every figure as one value for each seed.

    A figure that does not depend on the seed has one value. `device` is the torch device it ran on.
    """

    verdict: Verdict
    figures: Mapping[str, Sequence[float]]
    notes: str = ""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"verdict must be one of {get_args(Verdict)}, got {self.verdict!r}")
        for name, values in self.figures.items():
            if not values or not all(map(math.isfinite, values)):
                raise ValueError(f"figure {name!r} must have one finite value or more, got {list(values)}")


@dataclass(frozen=True)
class Figure:
    """The values of one figure over the seeds, with their median, lowest and highest."""

    values: tuple[float, ...]
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        numbers = tuple(float(value) for value in values)
        return cls(numbers, statistics.median(numbers), min(numbers), max(numbers))

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"{self.median:.4g}"
        return f"{self.median:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class Record:
    """The outcome of a claim as it lies in `<name>.json`. `seconds` is wall time, `date` is UTC."""

    name: str
    package: str
    paper: str
    statement: str
    expected: str
    verdict: Verdict
    figures: Mapping[str, Figure]
    notes: str
    seeds: tuple[int, ...]
    device: str
    threads: int
    seconds: float
    date: str
    versions: Mapping[str, str]
    source_sha256: str

    def to_json(self) -> str:
        body = {key: value for key, value in vars(self).items() if key != "figures"}
        body["figures"] = {name: vars(figure) for name, figure in self.figures.items()}
        return json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        body: dict[str, Any] = json.loads(text)
        body["figures"] = {name: Figure.of(figure["values"]) for name, figure in body["figures"].items()}
        body["seeds"] = tuple(body["seeds"])
        return cls(**body)


@dataclass(frozen=True)
class ClaimFile:
    """A claim on disk: its file, and the record beside it once it has been run."""

    path: Path
    name: str = field(init=False)
    package: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.path.stem)
        object.__setattr__(self, "package", self.path.parent.parent.name)

    @property
    def record_path(self) -> Path:
        return self.path.with_suffix(".json")

    def sha256(self) -> str:
        """The hash of the claim file and of the helpers that it names, in order of name."""
        text = self.path.read_bytes()
        helpers = sorted(self.path.parent.glob("_*.py"))
        named = [helper.read_bytes() for helper in helpers if helper.stem.encode() in text]
        return hashlib.sha256(b"".join([text, *named])).hexdigest()

    def record(self) -> Record | None:
        """The outcome of the last run, or None if there was none.

        Raises:
            InputError: the file beside the claim is not such a record.
        """
        if not self.record_path.exists():
            return None
        try:
            return Record.from_json(self.record_path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.record_path}: this is not the record of a claim ({error}).") from error

    def load(self) -> tuple[Claim, Callable[[Sequence[int]], Result]]:
        """Execute the claim file and return its `CLAIM` and its `run`.

        Raises:
            InputError: it defines no such two.
        """
        package = ModuleType(f"degauss_claims.{self.package}")
        package.__path__ = [str(self.path.parent)]
        for name in [name for name in sys.modules if name.startswith(f"{package.__name__}._")]:
            del sys.modules[name]  # a helper of another checkout, or of an older text
        sys.modules[package.__name__] = package  # where `from ._helper import ...` looks
        module_name = f"{package.__name__}.{self.name}"
        spec = importlib.util.spec_from_file_location(module_name, self.path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses and torch.compile look their module up by name
        spec.loader.exec_module(module)
        claim, run = getattr(module, "CLAIM", None), getattr(module, "run", None)
        if not isinstance(claim, Claim) or not callable(run):
            raise InputError(f"{self.path}: a claim file must define CLAIM, a Claim, and run(seeds).")
        return claim, cast("Callable[[Sequence[int]], Result]", run)


def source_tree() -> Path:
    """The root of the source checkout that this file belongs to.

    Raises:
        InputError: degauss-core is installed without its sources, so there are no claims to run.
    """
    here = Path(__file__).resolve()
    root = here.parents[5] if len(here.parents) > 5 else here.parent
    if not (root / "packages" / "core" / "src" / "degauss" / "core" / here.name).exists():
        raise InputError("claims are part of the source tree, but degauss-core is installed without it.")
    return root


def find_claims(root: Path, names: Sequence[str] = ()) -> list[ClaimFile]:
    """The claims under `root`, all or those named, by package and name. Files named `_*.py` are helpers.

    Raises:
        InputError: there is no claim of a name given, or two packages have one of the same name.
    """
    found = [ClaimFile(path) for path in sorted(root.glob("packages/*/claims/*.py")) if not path.name.startswith("_")]
    known: dict[str, ClaimFile] = {}
    for claim in found:
        if claim.name in known:
            raise InputError(f"{claim.path}: another claim has this name, {known[claim.name].path}.")
        known[claim.name] = claim
    for name in names:
        if name not in known:
            raise InputError(f"there is no claim {name!r}{near_miss(name, known)}.")
    return [known[name] for name in names] if names else found


def run_claim(claim_file: ClaimFile, seeds: Sequence[int]) -> Record:
    """Run one claim and write its record beside it; the old record stays if the run fails."""
    import torch

    from degauss.core.cli import provenance
    from degauss.core.doctor import device_name
    from degauss.core.files import atomic_path

    digest = claim_file.sha256()
    claim, run = claim_file.load()
    start = time.perf_counter()
    result = run(tuple(seeds))
    seconds = time.perf_counter() - start
    versions = provenance()
    record = Record(
        name=claim_file.name,
        package=claim_file.package,
        paper=claim.paper,
        statement=claim.statement,
        expected=claim.expected,
        verdict=result.verdict,
        figures={name: Figure.of(values) for name, values in result.figures.items()},
        notes=result.notes,
        seeds=tuple(seeds),
        device=device_name(result.device),
        threads=torch.get_num_threads(),
        seconds=round(seconds, 1),
        date=versions.pop("date"),
        versions=versions,
        source_sha256=digest,
    )
    with atomic_path(claim_file.record_path) as part:
        part.write_text(record.to_json(), encoding="utf-8")
    return record


def claims_page(records: Sequence[Record]) -> str:
    """The text of CLAIMS.md: a table of verdicts, then each claim with its figures and its machine."""
    ordered = sorted(records, key=lambda record: (record.package, record.name))
    if not ordered:
        return f"{PREAMBLE}\nNo claim has been run yet.\n"
    rows = [
        f"| [{record.name}](#{record.name}) | {record.package} | **{record.verdict}** | {record.date[:10]} |"
        for record in ordered
    ]
    table = "\n".join(["| claim | package | verdict | date |", "|---|---|---|---|", *rows])
    return "\n".join([PREAMBLE, table, "", *map(_section, ordered)])


def _section(record: Record) -> str:
    figures = "\n".join(f"| {name} | {figure} |" for name, figure in record.figures.items())
    seeds = "seed" if len(record.seeds) == 1 else "seeds"
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return (
        f"## {record.name}\n\n"
        f"**{record.verdict.capitalize()}.** {record.statement}\n\n"
        f"- Paper: {record.paper}\n"
        f"- It holds if: {record.expected}\n"
        f"- Run: `degauss claims run {record.name}`, {record.seconds:.0f} s, {seeds} "
        f"{', '.join(map(str, record.seeds))}; {record.device}, "
        f"{record.threads} thread{'s' if record.threads != 1 else ''}; {versions}; {record.date}\n\n"
        f"| figure | median (lowest to highest) |\n|---|---|\n{figures}\n"
        + (f"\n{record.notes}\n" if record.notes else "")
    )
