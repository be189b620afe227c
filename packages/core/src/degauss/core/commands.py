"""The verbs of `degauss`: what the machine offers, which domains there are, and the claims."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from degauss.core import doctor
from degauss.core.claims import Record, claims_page, find_claims, run_claim, source_tree
from degauss.core.errors import InputError


@dataclass(frozen=True)
class Doctor:
    """Say what this machine offers: Python, torch, devices, threads, domains, data."""

    def run(self) -> None:
        for subject, finding in doctor.facts():
            print(f"{subject:<14}{finding}")


@dataclass(frozen=True)
class Domains:
    """List the domain packages that are installed, with their verbs."""

    def run(self) -> None:
        for program in doctor.installed_domains().values():
            print(f"{program.name:<20}{program.summary}")
            print(f"{'':<20}{', '.join(program.verbs) or 'no method yet'}")


@dataclass(frozen=True)
class ClaimsList:
    """List the claims and their verdicts, as last run."""

    def run(self) -> None:
        for claim in find_claims(source_tree()):
            record = claim.record()
            if record is None:
                verdict = "not run"
            elif record.source_sha256 != claim.sha256():
                verdict = f"{record.verdict} (stale: the claim has changed since)"
            else:
                verdict = record.verdict
            print(f"{claim.package:<12}{claim.name:<32}{verdict}")


@dataclass(frozen=True)
class ClaimsRun:
    """Run claims and write what came out beside them."""

    names: Positional[tuple[str, ...]] = ()
    """The claims to run; all of them unless named."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The seeds to run each claim with."""

    def run(self) -> None:
        if not self.seeds:
            raise InputError("--seeds must name at least one seed.")
        for claim in find_claims(source_tree(), self.names):
            print(f"{claim.name}: ", end="", flush=True)
            record = run_claim(claim, self.seeds)
            print(f"{record.verdict} ({record.seconds:.0f} s)")
            for name, figure in record.figures.items():
                print(f"    {name}: {figure}")


@dataclass(frozen=True)
class ClaimsTable:
    """Write the text of CLAIMS.md, made from the records beside the claims."""

    output: Path | None = None
    """The file to write; standard output unless given."""

    def run(self) -> None:
        page = claims_page(recorded(source_tree()))
        if self.output is None:
            sys.stdout.write(page)
            return
        from degauss.core.checkpoint import atomic_path

        with atomic_path(self.output) as part:
            part.write_text(page, encoding="utf-8")


def recorded(root: Path) -> list[Record]:
    """The records of all claims under `root` that have been run."""
    return [record for claim in find_claims(root) if (record := claim.record()) is not None]
