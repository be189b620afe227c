"""Files that are whole or absent, and the checkpoints made of them: safetensors and JSON, never a pickle.

**Whole or absent.** `atomic_path` gives a place beside the target to write to. What was written is flushed
to the disk and then renamed, so a reader (or a run started after a SIGKILL) finds the old version or the new
one. A file is replaced by one rename. Replacing a directory takes two, and between them the old version lies
in a hidden sibling; `settled` finds whichever version is complete.

**A model** is a directory of ``model.safetensors`` and ``config.json``. The latter says what kind of model it
is (``"degauss.timeseries/tsdiff"``), in which version of this layout, and with which configuration.

**A tree** is any nesting of dicts, lists, tuples, tensors and scalars, such as the state of an optimizer:
the tensors go to ``NAME.safetensors``, the nesting to ``NAME.json``, and both come back exactly.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from degauss.core.errors import InputError

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
# What may lie in a model's directory; one that holds anything else is not ours to replace.
_MODEL_FILES = {WEIGHTS, CONFIG, "card.json"}
_PARTIAL, _PREVIOUS = ".partial-", ".previous-"


# --- whole or absent ----------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Generator[Path]:
    """Yield a path beside ``path`` at which to write one file or one directory; put it in place on success.

    The yielded name ends in the target's own name, so writers that go by the suffix work. Missing parents are
    made. If the body raises, or writes nothing, what it left is removed and the old version stays.
    Raises `InputError` where a file would replace a directory or a directory a file.
    """
    target = Path(os.path.realpath(path))  # a link keeps pointing at the file that is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    _put_back(target)
    partial = target.with_name(f"{_PARTIAL}{secrets.token_hex(4)}-{target.name}")
    try:
        yield partial
        if target.exists() and partial.is_dir() != target.is_dir():
            found, wanted = ("directory", "file") if target.is_dir() else ("file", "directory")
            raise InputError(f"{path} is a {found}, but a {wanted} is to be written: name another path.")
        _flush(partial)
        _replace(partial, target)
        _flush_directory(target.parent)
    finally:
        remove(partial)


def settled(path: str | os.PathLike[str]) -> Path:
    """The complete version of ``path``: itself, or the old directory that a killed replacement left aside."""
    path = Path(path)
    previous = _previous(path)
    return previous if not path.exists() and previous.exists() else path


def remove(path: Path) -> None:
    """Remove a file or a whole directory, if there is one; a kill midway leaves no half of it."""
    if path.is_dir() and not path.is_symlink():
        doomed = path
        if not path.name.startswith((_PARTIAL, _PREVIOUS)):
            doomed = path.with_name(f"{_PARTIAL}{secrets.token_hex(4)}-{path.name}")
            path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def remove_partial(directory: Path) -> None:
    """Remove what killed writers left in a directory of which the caller is the only writer."""
    for left in directory.glob(f"{_PARTIAL}*"):
        remove(left)


def _previous(target: Path) -> Path:
    return target.with_name(f"{_PREVIOUS}{target.name}")


def _put_back(target: Path) -> None:
    if not target.exists() and _previous(target).exists():
        _previous(target).rename(target)


def _replace(partial: Path, target: Path) -> None:
    if not target.is_dir():
        os.replace(partial, target)
        return
    remove(_previous(target))  # the target is complete, so this is what an earlier kill left behind
    target.rename(_previous(target))
    try:
        partial.rename(target)
    finally:
        _put_back(target)
    remove(_previous(target))


def _flush(written: Path) -> None:
    if not written.is_dir():
        with written.open("rb") as file:
            os.fsync(file.fileno())
        return
    for inside in written.iterdir():
        _flush(inside)
    _flush_directory(written)


def _flush_directory(directory: Path) -> None:
    if os.name != "posix":  # elsewhere a directory cannot be opened
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- models -------------------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """What a model's directory holds: a state dict on the CPU, and what is needed to build the module."""

    weights: dict[str, Tensor]
    config: dict[str, Any]


def save_model(
    path: str | os.PathLike[str],
    model: nn.Module | Mapping[str, Tensor],
    kind: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write a model's directory in one piece, replacing an older model there.

    ``model``: a module or its state dict. ``kind``: what `load_model` will ask for. ``config``: whatever JSON
    can hold. Raises `InputError` if a weight is not finite or if ``path`` holds something that is no model.
    """
    weights = dict(model.state_dict() if isinstance(model, nn.Module) else model)
    _check_finite(weights, f"refused to write {path}")
    for file in Path(path).iterdir() if Path(path).is_dir() else ():
        if file.name not in _MODEL_FILES:
            raise InputError(f"{path} holds other things than a model ({file.name}): name a new directory.")
    about: dict[str, Any] = {"format": kind, "format_version": FORMAT_VERSION, "config": dict(config)}
    if metrics is not None:
        about["metrics"] = dict(metrics)
    with atomic_path(path) as partial:
        partial.mkdir()
        write_tensors(partial / WEIGHTS, weights)
        write_json(partial / CONFIG, about)


def load_model(path: str | os.PathLike[str], kind: str) -> Loaded:
    """Read a model's directory. Raises `InputError` if it is missing, damaged, of another kind or newer."""
    folder = settled(path)
    if not folder.is_dir():
        raise InputError(f"{path} is no model: expected a directory with {WEIGHTS} and {CONFIG}.")
    config = read_header(folder / CONFIG, kind).get("config")
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG} has no 'config' table, so the model cannot be built from it.")
    weights = read_tensors(folder / WEIGHTS)
    _check_finite(weights, f"{folder / WEIGHTS} is damaged")
    return Loaded(weights, cast("dict[str, Any]", config))


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Put a state dict that was read from ``source`` into a module; `InputError` if the two do not fit."""
    own: dict[str, Tensor] = module.state_dict()
    strange = sorted(own.keys() ^ weights.keys())
    if strange:
        where = "missing from" if strange[0] in own else "not part of the network but in"
        raise InputError(f"{source} does not fit the network: tensor {strange[0]!r} is {where} the file.")
    for name, value in weights.items():
        if value.shape != own[name].shape:
            found, expected = tuple(value.shape), tuple(own[name].shape)
            raise InputError(f"{source} does not fit the network: {name!r} is {found}, expected {expected}.")
    module.load_state_dict(weights)


def fingerprint(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) of a file, or of a directory's sorted list of files and their sums.

    The latter is what ``sha256sum FILES... | sha256sum`` prints, run inside the directory.
    """
    path = settled(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        listing = "".join(f"{fingerprint(path / name)}  {name}\n" for name in names)
        return hashlib.sha256(listing.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """Read a JSON file that must say it is of ``kind``, in a format version that is known here."""
    about = read_json(path)
    found, version = about.get("format"), about.get("format_version")
    if found != kind:
        raise InputError(f"{path} holds {found!r}, but {kind!r} was expected.")
    if not isinstance(version, int) or version < 1:
        raise InputError(f"{path} has format_version {version!r}, expected 1 to {FORMAT_VERSION}.")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} was written by a newer Degauss (format version {version}, this one reads up to "
            f"{FORMAT_VERSION}): update degauss-core."
        )
    return about


def _check_finite(weights: Mapping[str, Tensor], complaint: str) -> None:
    for name, value in weights.items():
        if value.is_floating_point() or value.is_complex():
            # float8 has no isfinite of its own
            finite = torch.isfinite(value.float() if value.element_size() == 1 else value)
            if not bool(finite.all()):
                count = f"{int(finite.numel() - finite.sum())} of {finite.numel()}"
                raise InputError(f"{complaint}: {count} numbers in {name!r} are not finite.")


# --- files --------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors from any device; ones that share memory (tied weights) get a copy each."""
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if memory in seen else value
        seen.add(memory)
    path.touch()
    mode = path.stat().st_mode
    save_file(plain, path)
    path.chmod(mode)  # safetensors makes its files private to their owner, whatever the umask


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors to the CPU; `InputError` if the file is missing, cut short or of another kind."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is cut short or is no safetensors file ({error}).") from error


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; `InputError` if the file is missing or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (ValueError, OSError) as error:  # ValueError: not UTF-8, or not JSON
        raise InputError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}, but an object was expected.")
    return cast("dict[str, Any]", value)


# --- trees --------------------------------------------------------------------------------------------------


def save_tree(folder: Path, name: str, tree: Any) -> None:
    """Write a tree as ``name.safetensors`` and ``name.json``; `TypeError` for a leaf of another type."""
    tensors: dict[str, Tensor] = {}
    write_json(folder / f"{name}.json", {"tree": _pack(tree, name, tensors)})
    write_tensors(folder / f"{name}.safetensors", tensors)


def load_tree(folder: Path, name: str) -> Any:
    """Read what `save_tree` wrote: the same nesting, types, dtypes, shapes and bits, on the CPU."""
    tensors = read_tensors(folder / f"{name}.safetensors")
    path = folder / f"{name}.json"
    try:
        return _unpack(read_json(path)["tree"], tensors)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} does not belong to {name}.safetensors ({error!r}).") from error


def _pack(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON form of a node; its tensors go to ``tensors``. What JSON lacks becomes ``{tag: content}``."""
    if isinstance(node, Tensor):
        while name in tensors:  # keys 1 and "1" of one dict have the same path
            name += "'"
        tensors[name] = node
        return {"tensor": name}
    if isinstance(node, Mapping):
        items = cast("Mapping[Any, Any]", node).items()
        pairs = [[_pack(key, name, tensors), _pack(value, f"{name}/{key}", tensors)] for key, value in items]
        return {"dict": pairs}
    if isinstance(node, (list, tuple)):
        parts = [_pack(part, f"{name}/{i}", tensors) for i, part in enumerate(cast("list[Any]", node))]
        return parts if isinstance(node, list) else {"tuple": parts}
    if isinstance(node, float) and not math.isfinite(node):
        return {"float": str(node)}
    if node is None or type(node) in (bool, int, float, str):
        return node
    raise TypeError(f"{name}: expected a tensor, dict, list, tuple or plain scalar, got {type(node).__name__}")


def _unpack(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_unpack(part, tensors) for part in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    (tag, content), *_ = cast("dict[str, Any]", node).items()
    if tag == "tensor":
        return tensors[content]
    if tag == "float":
        return float(content)
    if tag == "tuple":
        return tuple(_unpack(part, tensors) for part in content)
    if tag == "dict":
        return {_unpack(key, tensors): _unpack(value, tensors) for key, value in content}
    raise KeyError(tag)
