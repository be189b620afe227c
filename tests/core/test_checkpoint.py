from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from degauss.core.checkpoint import as_tuples, load_frozen, load_model, load_tree, load_weights, save_model, save_tree
from degauss.core.errors import InputError
from degauss.core.files import atomic_path, fingerprint, settled

KIND = "degauss.test/linear"


# --- whole or absent ---


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "table.csv"
    with atomic_path(target) as partial:
        assert (partial.parent, partial.suffix) == (target.parent, ".csv")
        partial.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert [file.name for file in target.parent.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("write", [Path.touch, Path.mkdir])
def test_an_error_leaves_the_old_version_and_nothing_else(
    tmp_path: Path, error: type[BaseException], write: Callable[[Path], None]
) -> None:
    target = tmp_path / "it"
    write(target)
    before = target.stat().st_ino
    with pytest.raises(error), atomic_path(target) as partial:  # noqa: PT012
        write(partial)
        raise error
    assert list(tmp_path.iterdir()) == [target]
    assert target.stat().st_ino == before


def test_a_body_that_writes_nothing_fails_and_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "link"):
        pass
    assert (tmp_path / "link").read_text() == "old"
    with atomic_path(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_file_does_not_replace_a_directory_nor_a_directory_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(InputError, match="is a directory, but a file"),
        atomic_path(tmp_path / "folder") as part,
    ):
        part.touch()
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="is a file, but a directory"),
        atomic_path(tmp_path / "file") as part,
    ):
        part.mkdir()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def _write_version(target: Path, version: str) -> None:
    with atomic_path(target) as partial:
        partial.mkdir()
        for name in "abc":
            (partial / name).write_text(version)


def _version(target: Path) -> str:
    """The version of a complete directory; fails for a mixed or a partial one."""
    texts = [(settled(target) / name).read_text() for name in "abc"]
    assert len(set(texts)) == 1
    return texts[0]


def test_a_directory_is_whole_at_every_instant_of_its_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SIGKILL can fall between any two changes of the file system: look at each such state, and go on."""
    target = tmp_path / "live" / "model"
    _write_version(target, "old")
    instants: list[Path] = []

    def keep() -> None:
        instants.append(tmp_path / f"instant-{len(instants)}")
        shutil.copytree(tmp_path / "live", instants[-1])

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            keep()
            result = real(*args, **kwargs)
            keep()
            return result

        monkeypatch.setattr(owner, name, watched)

    for name in ("rename", "mkdir", "write_text", "unlink"):
        watch(Path, name)
    watch(os, "replace")
    # `rmtree` as a kill can leave it: the files go one by one.
    monkeypatch.setattr(shutil, "rmtree", lambda path: [file.unlink() for file in path.iterdir()] and path.rmdir())
    _write_version(target, "new")
    monkeypatch.undo()

    seen = [_version(instant / "model") for instant in instants]
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"old", "new"}
    assert any(not (instant / "model").exists() for instant in instants)  # else `settled` was not put to the test
    for instant in instants:
        _write_version(instant / "model", "newest")
        assert _version(instant / "model") == "newest"
        assert not (instant / ".previous-model").exists()


# --- models ---


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", nn.Linear(3, 2), KIND, {"width": 3, "rate": 0.1}, metrics={"crps": 0.5})
    return tmp_path / "model"


def test_a_model_comes_back_exactly(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Conv2d(2, 2, 3))
    net[2].to(dtype=torch.bfloat16, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    config = {"width": 4, "rate": 0.1, "parts": [1, 2], "name": "é", "nested": {"a": None}}
    save_model(tmp_path / "model", net, KIND, config)
    weights, found = load_model(tmp_path / "model", KIND)
    assert found == config
    for name, value in net.state_dict().items():
        assert weights[name].dtype == value.dtype
        assert torch.equal(weights[name], value)
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


@dataclass
class Line:
    network: nn.Linear


def test_a_model_is_loaded_frozen_by_whoever_knows_its_configuration(tmp_path: Path) -> None:
    net, card = nn.Linear(3, 2), {"licence": "none"}
    save_model(tmp_path / "model", net, KIND, {"sizes": [3, 2]}, card=card)
    assert json.loads((tmp_path / "model" / "card.json").read_text()) == card
    model = load_frozen(tmp_path / "model", KIND, "a line", lambda config: Line(nn.Linear(*config["sizes"])))
    assert torch.equal(model.network.weight, net.weight)
    assert not model.network.training
    assert not any(weight.requires_grad for weight in model.network.parameters())
    for build in (lambda config: Line(config["width"]), lambda config: Line(nn.Linear(**config))):
        with pytest.raises(InputError, match="model: the configuration is not that of a line"):
            load_frozen(tmp_path / "model", KIND, "a line", build)
    with pytest.raises(InputError, match="does not fit the network"):
        load_frozen(tmp_path / "model", KIND, "a line", lambda _: Line(nn.Linear(4, 2)))


def test_lists_of_a_configuration_become_tuples_at_any_depth() -> None:
    config = {"sizes": (3, (2, 1)), "net": {"words": ("a", "b"), "name": "é"}, "rate": None}
    assert as_tuples(json.loads(json.dumps(config))) == config


def test_tied_weights_and_views_are_written_as_tensors_of_their_own(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    whole = torch.arange(12.0)
    save_model(tmp_path / "model", {**net.state_dict(), "view": whole[::2], "other": whole[1:3]}, KIND, {})
    weights = load_model(tmp_path / "model", KIND).weights
    assert torch.equal(weights["0.weight"], weights["1.weight"])
    assert weights["view"].tolist() == [0, 2, 4, 6, 8, 10]
    assert weights["other"].tolist() == [1, 2]


def test_the_files_can_be_read_by_whom_the_umask_lets(saved: Path) -> None:
    assert (saved / "model.safetensors").stat().st_mode == (saved / "config.json").stat().st_mode


def test_an_older_model_is_replaced_but_not_a_directory_of_other_things(saved: Path) -> None:
    (saved / "card.json").write_text("{}")
    save_model(saved, {"w": torch.ones(1)}, KIND, {})
    assert list(load_model(saved, KIND).weights) == ["w"]
    (saved / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds other things than a model \(thesis\.tex\)"):
        save_model(saved, {"w": torch.zeros(1)}, KIND, {})
    assert load_model(saved, KIND).weights["w"].item() == 1
    save_model(saved, {"w": torch.zeros(1)}, KIND, {}, companions=["thesis.tex"])
    assert load_model(saved, KIND).weights["w"].item() == 0
    assert not (saved / "thesis.tex").exists()


def _edit_config(folder: Path, **changes: object) -> None:
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, **changes}))


def _truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-5])


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weight": [1.0] * 100}))


def _poison(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["weight"][0, :2] = torch.tensor([math.nan, math.inf])
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (shutil.rmtree, r"model is no model: expected a directory with model\.safetensors and config\.json"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json does not exist"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors does not exist"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json cannot be read as JSON"),
        (
            lambda folder: (folder / "config.json").write_text("[]"),
            "holds a JSON list, but an object was expected",
        ),
        (_truncate, r"model\.safetensors is cut short or is no safetensors file"),
        (_pickle, r"model\.safetensors is cut short or is no safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"model\.safetensors is cut short"),
        (_poison, r"model\.safetensors is damaged: 2 of 6 numbers in 'weight' are not finite"),
        (
            lambda folder: _edit_config(folder, format="degauss.audio/vocoder"),
            rf"config\.json holds 'degauss\.audio/vocoder', but '{KIND}' was expected",
        ),
        (
            lambda folder: _edit_config(folder, format_version=2),
            r"config\.json was written by a newer Degauss \(format version 2, this one reads up to 1\)",
        ),
        (lambda folder: _edit_config(folder, format_version="x"), "format_version 'x', expected 1"),
        (lambda folder: _edit_config(folder, config=3), r"config\.json has no 'config' table"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(
    saved: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(saved)
    with pytest.raises(InputError, match=sentence) as error:
        load_model(saved, KIND)
    assert "\n" not in str(error.value)
    assert str(saved) in str(error.value)


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"refused to write .*: 1 of 2 numbers in 'w' are not finite"):
        save_model(tmp_path / "model", {"n": torch.arange(3), "w": torch.tensor([1, -math.inf])}, KIND, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"weight": torch.ones(2, 3)}, "tensor 'bias' is missing from the file"),
        (
            {"weight": torch.ones(2, 3), "bias": torch.ones(2), "x": torch.ones(1)},
            "'x' is not part of the network",
        ),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, r"'weight' is \(3, 2\), expected \(2, 3\)"),
    ],
)
def test_weights_of_another_network_are_refused(weights: dict[str, Tensor], sentence: str) -> None:
    with pytest.raises(InputError, match=f"file does not fit the network: .*{sentence}"):
        load_weights(nn.Linear(3, 2), weights, "file")


def test_a_fingerprint_is_what_sha256sum_says(saved: Path) -> None:
    data = (saved / "model.safetensors").read_bytes()
    assert fingerprint(saved / "model.safetensors") == hashlib.sha256(data).hexdigest()
    if shutil.which("sha256sum"):
        command = "sha256sum config.json model.safetensors | sha256sum"
        said = subprocess.run(command, shell=True, cwd=saved, capture_output=True, text=True, check=True)
        assert fingerprint(saved) == said.stdout.split()[0]
    before = fingerprint(saved)
    _edit_config(saved, config={})
    assert fingerprint(saved) != before
    with pytest.raises(InputError, match="does not exist"):
        fingerprint(saved / "nothing")


# --- trees ---


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        same_form = isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return same_form and torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def _optimizers() -> Iterator[Any]:
    sgd, adam, adamw = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
    yield pytest.param(lambda w: sgd(w, lr=0.1), id="sgd")
    yield pytest.param(lambda w: sgd(w, lr=0.1, momentum=0.9, nesterov=True), id="momentum")
    yield pytest.param(lambda w: adam(w, lr=0.01), id="adam")
    yield pytest.param(lambda w: adam(w, lr=torch.tensor(0.01), foreach=False), id="lr tensor")
    yield pytest.param(lambda w: adamw([{"params": w[:1]}, {"params": w[1:], "lr": 1e-3}]), id="groups")
    yield pytest.param(lambda w: adamw(w, amsgrad=True), id="amsgrad")
    yield pytest.param(lambda w: torch.optim.RMSprop(w, centered=True), id="rmsprop")
    yield pytest.param(torch.optim.Adagrad, id="adagrad")
    yield pytest.param(torch.optim.LBFGS, id="lbfgs")


@pytest.mark.parametrize("make", list(_optimizers()))
def test_an_optimizer_comes_back_exactly_and_goes_on_alike(tmp_path: Path, make: Callable[[Any], Any]) -> None:
    def step(net: nn.Module, optimizer: Any) -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = net(torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    net = nn.Linear(3, 2).double()
    optimizer = make(list(net.parameters()))
    for _ in range(3):
        step(net, optimizer)
    state = optimizer.state_dict()
    save_tree(tmp_path, "optimizer", state)
    back = load_tree(tmp_path, "optimizer")
    assert _same(state, back)

    other = nn.Linear(3, 2).double()
    other.load_state_dict(net.state_dict())
    twin = make(list(other.parameters()))
    twin.load_state_dict(back)
    for _ in range(2):
        step(net, optimizer)
        step(other, twin)
    assert _same(net.state_dict(), other.state_dict())


_dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
_tensors = st.builds(
    lambda dtype, shape, seed: torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    _dtypes,
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 99),
)
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
_trees = st.recursive(
    _scalars | _tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers(-2, 2) | st.text("01/'", max_size=3), inner, max_size=4)
    ),
)


@settings(max_examples=50)
@example({1: torch.zeros(1), "1": torch.ones(1)})
@given(_trees)
def test_any_tree_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    folder = tmp_path_factory.mktemp("tree")
    save_tree(folder, "state", tree)
    assert _same(tree, load_tree(folder, "state"))
    json.loads((folder / "state.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    shutil.rmtree(folder)


def test_a_tree_refuses_what_it_cannot_give_back(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state/a/1: expected a tensor, .* got set"):
        save_tree(tmp_path, "state", {"a": [1, {2}]})
    save_tree(tmp_path, "state", {"a": torch.ones(1)})
    save_tree(tmp_path, "other", {"b": torch.ones(1)})
    (tmp_path / "state.json").write_text((tmp_path / "other.json").read_text())
    with pytest.raises(InputError, match=r"state\.json does not belong to state\.safetensors"):
        load_tree(tmp_path, "state")
