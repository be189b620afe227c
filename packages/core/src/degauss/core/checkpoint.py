"""Checkpoints: safetensors and JSON in a directory that is whole or absent, never a pickle.

**A model** is a directory of ``model.safetensors`` and ``config.json``. The latter says what kind of model it
is (``"degauss.timeseries/tsdiff"``), in which version of this layout, and with which configuration. ``card.json``
may stand beside them and tell of its training.

**A tree** is any nesting of dicts, lists, tuples, tensors and scalars, such as the state of an optimizer:
the tensors go to ``NAME.safetensors``, the nesting to ``NAME.json``, and both come back exactly.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from degauss.core.errors import InputError
from degauss.core.files import atomic_path, read_json, settled, write_json

# The claims on PaD-TS ask for it here, and their records are of the claims as they stand.
from degauss.core.files import remove as remove  # noqa: PLC0414

FORMAT_VERSION = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "card.json"
# What may lie in a model's directory; one that holds anything else is not ours to replace.
_MODEL_FILES = {WEIGHTS, CONFIG, CARD}


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
    companions: Collection[str] = (),
    card: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's directory in one piece, replacing an older model there.

    ``model``: a module or its state dict. ``kind``: what `load_model` will ask for. ``config``: whatever JSON
    can hold. ``companions``: files of an older model that go with it. ``card``: what its card says, if it has one.
    Raises `InputError` if a weight is not finite or if ``path`` holds something that is no model.
    """
    weights = dict(model.state_dict() if isinstance(model, nn.Module) else model)
    _check_finite(weights, f"refused to write {path}")
    for file in Path(path).iterdir() if Path(path).is_dir() else ():
        if file.name not in {*_MODEL_FILES, *companions}:
            raise InputError(f"{path} holds other things than a model ({file.name}): name a new directory.")
    about: dict[str, Any] = {"format": kind, "format_version": FORMAT_VERSION, "config": dict(config)}
    if metrics is not None:
        about["metrics"] = dict(metrics)
    with atomic_path(path) as partial:
        partial.mkdir()
        write_tensors(partial / WEIGHTS, weights)
        write_json(partial / CONFIG, about)
        if card is not None:
            write_json(partial / CARD, card)


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


class HasNetwork(Protocol):
    """What a model is here: something with a network."""

    @property
    def network(self) -> nn.Module: ...


M = TypeVar("M", bound=HasNetwork)


def load_frozen(path: str | os.PathLike[str], kind: str, what: str, build: Callable[[dict[str, Any]], M]) -> M:
    """What ``build`` makes of a saved configuration, with the saved weights, frozen, in eval mode.

    ``what``: what such a model is called. Raises `InputError` as `load_model` does, and where ``build`` finds that a
    configuration lacks a value or has a wrong one (`TypeError`, `KeyError`, `ValueError`).
    """
    weights, config = load_model(path, kind)
    try:
        model = build(config)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: the configuration is not that of {what} ({error}).") from None
    load_weights(model.network, weights, path)
    model.network.eval().requires_grad_(False)
    return model


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


def as_tuples(value: Any) -> Any:
    """A configuration as JSON gave it, its lists turned into tuples, which frozen dataclasses have, at any depth."""
    if isinstance(value, list):
        return tuple(as_tuples(part) for part in cast("list[Any]", value))
    if isinstance(value, dict):
        return {name: as_tuples(part) for name, part in cast("dict[str, Any]", value).items()}
    return value


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
