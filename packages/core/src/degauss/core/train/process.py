"""The processes of a run: accelerate's, and the signals that stop all of them after one step."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from degauss.core.errors import InputError, Stopped
from degauss.core.train.config import TrainConfig


class Interrupted(Stopped):
    """SIGINT or SIGTERM came; the step was finished and saved. ``exit_code`` is what a shell expects."""

    def __init__(self, number: int, step: int, steps: int, checkpoint: Path) -> None:
        where = f"{signal.Signals(number).name} after step {step} of {steps}"
        super().__init__(f"Stopped by {where}; run the same command again to go on from {checkpoint}.")
        self.exit_code = 128 + number
        self.step = step


def accelerator_of(config: TrainConfig) -> Any:
    """accelerate's view of this process, as the configuration wants it."""
    import torch.distributed as dist
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin

    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    if cpu and config.precision == "fp16":
        raise InputError("precision 'fp16' needs a GPU: choose 'no' or 'bf16' on the CPU.")
    # accelerate keeps one configuration a process; a second run may want another precision or device.
    AcceleratorState._reset_state(not dist.is_initialized())  # pyright: ignore[reportPrivateUsage]
    # Without `cpu`, processes without a GPU would not find each other and train alone.
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=config.precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=config.tracker,
        project_dir=str(config.out),
    )
    if "DEEPSPEED" in accelerator.distributed_type or "FSDP" in accelerator.distributed_type:
        raise InputError(f"training runs data parallel (DDP) only, not as {accelerator.distributed_type}.")
    return accelerator


def unwrap(accelerator: Any, model: nn.Module, training: bool, own_forward: bool) -> None:
    """Leave the caller's module as it came, without the mixed-precision forward that accelerate put on it."""
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if not own_forward:
        vars(model).pop("forward", None)
    vars(model).pop("_is_accelerate_prepared", None)
    model.train(training)


class Stop:
    """Notes SIGINT and SIGTERM, and lets all processes stop after the same step."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.number = 0
        self.group: Any = None
        self.pending: tuple[Tensor, Any] | None = None
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if self.world > 1:
            import torch.distributed as dist

            # A group of hosts: agreeing must not wait for the device.
            self.group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._restore()
        # Not after an error: the other processes may never answer.
        if self.pending is not None and kind in (None, Interrupted):
            import torch.distributed as dist

            self.pending[1].wait()
            dist.destroy_process_group(self.group)

    def _note(self, number: int, frame: object) -> None:
        self.number = number
        self._restore()  # a second signal does not wait for the step

    def _restore(self) -> None:
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def agreed(self) -> int:
        """The signal to stop for, or 0: the same in every process, there one step after it came."""
        if self.world == 1:
            return self.number
        import torch.distributed as dist

        before, flag = self.pending, torch.tensor(self.number)
        self.pending = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, self.group, async_op=True)
        if before is None:
            return 0
        before[1].wait()
        return int(before[0])
