"""How much memory a reconstruction will take, and how much there is: asked before hours of work, not after.

What counts: the projector's matrix or the coils' images, the volumes that a method holds at once, the scan, the
network's activations for the slices that go through it together, and the draws that are kept. The network's share is
measured on one slice.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from degauss.core.errors import InputError
from degauss.core.inverse import pull_back
from degauss.core.schedule import LinearVP
from degauss.medical.prior import SlicePrior
from degauss.medical.problem import Method
from degauss.medical.scans import Scan

_FLOAT = 4
_SCANS = 5  # measurements that a step of conjugate gradients holds at once


def check_memory(scan: Scan, method: Method, prior: SlicePrior | None, draws: int, chunk: int, device: str) -> None:
    """Raise InputError, saying how much would suffice, where a run cannot fit."""
    there = available_bytes(device)
    if there is None:
        return
    needed = needed_bytes(scan, method, prior, draws, chunk)
    if needed > there:
        hint = " Fewer slices together (--chunk) need less." if prior is not None and chunk > 1 else ""
        raise InputError(
            f"{method.name} on {' x '.join(map(str, scan.shape))} voxels needs about {needed / 2**30:.2g} GiB of "
            f"memory, but {there / 2**30:.2g} GiB are free.{hint}"
        )


def needed_bytes(scan: Scan, method: Method, prior: SlicePrior | None, draws: int, chunk: int) -> int:
    """About how much a run of one draw after the other holds at its peak, from above."""
    volume = _FLOAT * int(torch.tensor(scan.shape).prod())
    held = method.volumes * volume + _SCANS * _FLOAT * scan.y.numel() + (draws + 4) * volume
    held += scan.geometry.held_bytes(scan.slices)
    if prior is not None and method.evaluations:
        slices = min(chunk, scan.slices * (2 if len(scan.shape) == 4 else 1))
        held += slices * network_bytes(prior, (scan.shape[-2], scan.shape[-1]), backward=method.backward)
    return held


def network_bytes(prior: SlicePrior, size: tuple[int, int], *, backward: bool) -> int:
    """What the network holds for one slice of ``size`` (rows, columns) at its peak; measured by running it once."""
    x, t = torch.zeros(1, 1, *size, device=prior.device), torch.tensor(0.5, dtype=torch.float64)
    denoiser = prior.denoiser(LinearVP())
    if backward:
        return peak_bytes(lambda: pull_back(denoiser, x, t, {}, torch.ones_like))
    with torch.no_grad():
        return peak_bytes(lambda: denoiser(x, t))


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most bytes of tensors that were alive at once while ``work`` ran, of those that it made."""
    with _Tally() as tally:
        work()
    return tally.peak


class _Tally(TorchFunctionMode):
    """Adds up the storages that functions of torch make, and takes them off when they are freed.

    What a function makes and frees inside is not seen, nor what a backward pass makes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.known: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf) not in given:
                self._made(leaf)
        return result

    def _made(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key in self.known:
            return
        size = storage.nbytes()
        self.known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def available_bytes(device: str) -> int | None:
    """The memory that is free on the device, or that this process may still take of the machine's; None: not known."""
    if device != "cpu":
        return torch.cuda.mem_get_info()[0]
    free = _meminfo(Path("/proc/meminfo"))
    limit = _limit(Path("/sys/fs/cgroup"))
    found = [value for value in (free, limit) if value is not None]
    return min(found) if found else None


def peak_memory(device: str) -> int | None:
    """The most that this process has held, bytes: of the device, or of the machine; None: not known."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _meminfo(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(sizes[0]) if sizes else None


def _limit(folder: Path) -> int | None:
    """What a control group (a container, a batch job) leaves, where one sets a limit. Cached files can be dropped."""
    try:
        most, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = sum(int(size) for name, size in lines if name == "inactive_file")
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return max(0, most - used + cached)
