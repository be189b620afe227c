"""What this machine offers: Python, torch, devices, domains, data; as facts that can be printed."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from degauss.core.cli import Program


def cpu_name() -> str:
    """The processor's name as its maker gives it, where the system says so, and the number of its cores."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {usable_cores()} cores"


def usable_cores() -> int:
    """The number of cores that this process may use, which a container or a scheduler may have cut."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_name(device: str = "cpu") -> str:
    """The name of the hardware behind a torch device (`"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`)."""
    if not device.startswith("cuda"):
        return cpu_name() if device == "cpu" else f"{device} ({platform.machine()})"
    import torch

    return torch.cuda.get_device_name(device)


def installed_domains() -> dict[str, Program]:
    """The command line of each domain package that is installed, by the domain's name."""
    found = sorted(entry_points(group="degauss.domains"), key=lambda entry: entry.name)
    return {entry.name: cast("Program", entry.load()) for entry in found}


def facts() -> Iterator[tuple[str, str]]:
    """Yield what there is to say about this machine, one (subject, finding) at a time."""
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "cpu", cpu_name()
    yield from _torch_facts()
    for package in ("degauss-core", "numpy", "accelerate", "safetensors", "tyro", "triton", "torchaudio"):
        yield package, _version(package)
    yield "domains", ", ".join(installed_domains()) or "none installed"
    yield "DEGAUSS_DATA", _data_folder()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _torch_facts() -> Iterator[tuple[str, str]]:
    import torch

    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield (
            f"cuda:{index}",
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"compute capability {properties.major}.{properties.minor}",
        )
    if torch.backends.mps.is_available():
        yield "mps", "available"
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        yield "accelerator", "none; everything runs on the CPU"


def _data_folder() -> str:
    folder = os.environ.get("DEGAUSS_DATA")
    if folder is None:
        return "not set"
    return folder if Path(folder).is_dir() else f"{folder} (there is no such folder)"
