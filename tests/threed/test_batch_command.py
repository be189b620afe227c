"""`batch`: each prompt once, what is done skipped, and all prompts checked first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from degauss.core.errors import InputError
from degauss.core.nets.ncsnpp import NCSNppConfig
from degauss.threed.commands.batch import read_prompts
from degauss.threed.embedded_prior import EmbeddedConfig, EmbeddedPrior

Invoke = Callable[[Sequence[str | Path]], tuple[int, str, str]]
Refused = Callable[[Sequence[str | Path]], str]

SMALL = [
    "--steps", "2", "--views", "1", "--size", "16", "--resolution", "12",
    "--grid", "16", "--texture", "32", "--frames", "1", "--snapshots", "1",
]  # fmt: skip


@pytest.fixture
def words(here: Path) -> list[str]:
    network = NCSNppConfig(channels=8, multipliers=(1,), patch=2)
    EmbeddedPrior.new(EmbeddedConfig(("cat", "dog"), 16, network=network)).save(here / "prior")
    (here / "prompts.txt").write_text("cat\n# a comment\n\ndog # another\ncat\n", encoding="utf-8")
    return ["batch", "prompts.txt", "--prior", "prior", *SMALL]


def test_each_prompt_once_and_what_is_done_is_skipped(words: list[str], invoke: Invoke, here: Path) -> None:
    assert invoke(words)[1].splitlines() == ["1 of 2: cat: wrote batch/cat.glb", "2 of 2: dog: wrote batch/dog.glb"]
    written = (here / "batch/cat.glb").stat().st_mtime_ns
    (here / "batch/dog.glb").unlink()
    assert invoke(words)[1].splitlines() == ["1 of 2: cat: is done", "2 of 2: dog: wrote batch/dog.glb"]
    assert (here / "batch/cat.glb").stat().st_mtime_ns == written


def test_no_run_begins_before_all_prompts_are_known(words: list[str], here: Path, refused: Refused) -> None:
    (here / "prompts.txt").write_text("cat\nhorse\n", encoding="utf-8")
    assert "does not know 'horse'" in refused(words)


def test_files_of_prompts(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("a red cat/dog\nspot\n", encoding="utf-8")
    assert read_prompts(file) == {"a red cat/dog": "a_red_cat_dog", "spot": "spot"}
    file.write_text("a b\na/b\n", encoding="utf-8")
    with pytest.raises(InputError, match="would both be written to 'a_b'"):
        read_prompts(file)
    file.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no prompt"):
        read_prompts(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")
