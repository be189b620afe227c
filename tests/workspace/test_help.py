"""`--help` of every command line answers at once and without torch."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest

from degauss.core.doctor import installed_domains

PARTS = ["core", "audio", "bio", "medical", "threed", "timeseries"]

HEAVY = "{'torch', 'numpy', 'tyro', 'rich', 'accelerate', 'pandas'} & set(sys.modules)"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]], ids=["none", "--help", "-h"])
def test_help_answers_without_heavy_imports(part: str, arguments: list[str]) -> None:
    code = f"import sys; from degauss.{part}.cli import main; status = main(); print({HEAVY}); sys.exit(status)"
    done = run(code, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("degauss")
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("part", PARTS)
def test_help_takes_under_a_third_of_a_second(part: str) -> None:
    """Wall time of the whole process, median of five; the fastest counts on a machine that is busy."""
    code = f"import sys; from degauss.{part}.cli import main; sys.exit(main())"
    seconds: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        assert run(code, "--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 0.3 or min(seconds) < 0.15, seconds


@pytest.mark.parametrize("part", PARTS)
def test_help_of_every_verb_answers_without_torch(part: str) -> None:
    import importlib

    program = importlib.import_module(f"degauss.{part}.cli").PROGRAM
    for verb in program.verbs:
        code = f"import sys; from degauss.{part}.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
        done = run(code, *verb.split(), "--help")
        assert (done.returncode, done.stderr) == (0, ""), verb
        assert f"usage: {program.name} {verb}" in done.stdout
        assert done.stdout.splitlines()[-1] == "False", f"{verb} --help imports torch"


def test_every_domain_announces_itself() -> None:
    domains = installed_domains()
    assert sorted(domains) == ["audio", "bio", "medical", "threed", "timeseries"]
    assert {program.name for program in domains.values()} == {
        "degauss-3d",
        "degauss-audio",
        "degauss-bio",
        "degauss-medical",
        "degauss-timeseries",
    }


@pytest.mark.parametrize("part", PARTS[1:])
def test_a_domain_without_a_method_says_so(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    program = installed_domains()[part]
    if program.verbs:
        pytest.skip(f"{part} has methods")
    assert program.main([]) == 0
    assert "no method yet" in capsys.readouterr().out
    assert program.main(["go"]) == 2
    assert "no method yet" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = "from degauss.core.cli import main; import sys; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.close()
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (141, "")
