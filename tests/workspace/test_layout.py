"""The shape of the workspace: one namespace, one version, declared imports, no address of any machine."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
PARTS = {"3d": "threed"}


def project(member: Path) -> dict[str, Any]:
    return tomllib.loads((member / "pyproject.toml").read_text())


def part(member: Path) -> str:
    return PARTS.get(member.name, member.name)


def tracked_files() -> list[Path]:
    """What git tracks or would track; everything that lies about is left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def test_the_six_members_are_there() -> None:
    assert [member.name for member in MEMBERS] == ["3d", "audio", "bio", "core", "medical", "timeseries"]


def test_degauss_is_a_namespace_without_init() -> None:
    stray = [path for path in ROOT.glob("packages/*/src/degauss/*") if path.is_file()]
    assert not stray, "an __init__.py here hides every other member"


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_each_part_is_typed_and_alone_in_its_member(member: Path) -> None:
    parts = [path.name for path in (member / "src" / "degauss").iterdir() if path.name != "__pycache__"]
    assert parts == [part(member)]
    assert (member / "src" / "degauss" / part(member) / "py.typed").exists()
    assert (member / "README.md").exists()


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_each_member_is_declared_alike(member: Path) -> None:
    table = project(member)
    name = f"degauss-{member.name}"
    assert table["project"]["name"] == name
    assert table["tool"]["uv"]["build-backend"]["module-name"] == f"degauss.{part(member)}"
    script = "degauss" if member.name == "core" else name
    assert table["project"]["scripts"] == {script: f"degauss.{part(member)}.cli:main"}
    if member.name != "core":
        domains = table["project"]["entry-points"]["degauss.domains"]
        assert domains == {part(member): f"degauss.{part(member)}.cli:PROGRAM"}


def test_versions_are_in_lock_step() -> None:
    versions = {member.name: project(member)["project"]["version"] for member in MEMBERS}
    versions["workspace"] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert len(set(versions.values())) == 1, versions


def requirements(table: dict[str, Any]) -> Iterator[str]:
    metadata = table.get("project", {})
    yield from metadata.get("dependencies", [])
    for extra in metadata.get("optional-dependencies", {}).values():
        yield from extra
    for group in table.get("dependency-groups", {}).values():
        yield from group


def distribution(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found.group()).lower()


@pytest.mark.parametrize("folder", [ROOT, *MEMBERS], ids=lambda folder: folder.name)
def test_every_dependency_has_a_floor(folder: Path) -> None:
    without = [requirement for requirement in requirements(project(folder)) if ">=" not in requirement]
    assert not without, "without a floor a resolver may take a placeholder or a release from years ago"


def imports(source: Path) -> Iterator[tuple[str, int]]:
    """The absolute modules that a file imports anywhere, with their lines."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, node.lineno


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_every_import_is_declared(member: Path) -> None:
    """The shared environment would hide an import of something that only another member asks for."""
    declared = {distribution(requirement) for requirement in requirements(project(member))}
    providers = packages_distributions()
    undeclared: list[str] = []
    for source in sorted((member / "src").rglob("*.py")):
        for module, line in imports(source):
            top = module.partition(".")[0]
            if top in sys.stdlib_module_names:
                continue
            if top == "degauss":
                known = module.startswith((f"degauss.{part(member)}", "degauss.core"))
            else:
                offers = {re.sub(r"[-_.]+", "-", name).lower() for name in providers.get(top, [top])}
                known = bool(offers & declared)
            if not known:
                undeclared.append(f"{source.relative_to(ROOT)}:{line}: {module}")
    assert not undeclared


def test_the_lock_names_no_host() -> None:
    lock = (ROOT / "uv.lock").read_text()
    assert "://" not in lock, "write the lock with `make lock`"
    assert set(re.findall(r'registry = "([^"]*)"', lock)) == {"pypi"}
    assert lock.count("sha256:") > 1000


LOCK = """\
source = { registry = "https://mirror.example/simple" }
sdist = { url = "https://mirror.example/a/b/x-1.0.tar.gz", hash = "sha256:00", size = 1 }
wheels = [
    { url = "https://mirror.example/a/b/x-1.0-py3-none-any.whl", hash = "sha256:11", size = 2 },
]
"""


def test_a_lock_is_rewritten_without_addresses_and_with_its_hashes() -> None:
    spec = importlib.util.spec_from_file_location("index_agnostic", ROOT / "scripts" / "index_agnostic.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    once = module.index_agnostic(LOCK)
    assert once == (
        'source = { registry = "pypi" }\n'
        'sdist = { hash = "sha256:00" }\n'
        "wheels = [\n"
        '    { filename = "x-1.0-py3-none-any.whl", hash = "sha256:11" },\n'
        "]\n"
    )
    assert module.index_agnostic(once) == once


# Spelt apart, so that this file does not find itself.
PLACES = re.compile(
    "|".join(["/" + "home/[a-z]", "/" + "root/", "/" + "Users/[A-Za-z]", "/" + "work/", "/" + "tmp/dg"])
    + "|files.python"
    + r"hosted|p"
    + r"ypi\.org"
)


def test_no_file_names_a_machine_or_a_package_index() -> None:
    found: list[str] = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(text.splitlines(), 1)
            if PLACES.search(line)
        ]
    assert not found
