"""The loop itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from degauss.core.errors import InputError
from degauss.core.files import remove_partial
from degauss.core.noise import Noise
from degauss.core.train.batches import DROPOUT, EVALUATE, NOISE, B, Data, Shares, batches_of, key, moved, reseed
from degauss.core.train.config import TrainConfig, Trained, learning_rate
from degauss.core.train.journal import journal_of
from degauss.core.train.process import Interrupted, Stop, accelerator_of, unwrap
from degauss.core.train.run import Average, Run, Window, latest_checkpoint

Loss = Callable[[nn.Module, B, Noise], Tensor]
"""(network, batch, the noise keyed by the batch's samples) -> the mean loss, or the losses ``[batch]``."""


def adamw(model: nn.Module, config: TrainConfig) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019) over the weights that ask for a gradient."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    fused = True if all(weight.device.type == "cuda" for weight in weights) else None
    return torch.optim.AdamW(weights, config.lr, config.betas, weight_decay=config.weight_decay, fused=fused)


def train(
    model: nn.Module,
    loss: Loss[B],
    data: Data[B],
    config: TrainConfig,
    *,
    optimizer: Callable[[nn.Module, TrainConfig], Optimizer] = adamw,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    resume: bool = True,
) -> Trained:
    """Train ``model`` in place and return the weights to use.

    Runs alike in one process and in each of several (``torchrun``, ``accelerate launch``), where ``loss`` is
    given the network wrapped for them: it must call that one, and not reach for its parts. ``optimizer`` may
    have groups with learning rates of their own; all follow the schedule. ``evaluate`` is given the network
    in eval mode with the averaged weights, in every process, and its figures are logged.

    The run goes on from the newest checkpoint in ``config.out``; with ``resume=False`` there must be none.
    Raises `InputError` for a checkpoint that cannot be used, `Diverged` at a loss or gradient that is not
    finite, `Interrupted` after a SIGINT or SIGTERM, always with the last good checkpoint in place.
    """
    accelerator = accelerator_of(config)
    world, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    if config.batch_size % (world * config.accumulate):
        raise InputError(
            f"batch_size must be a multiple of processes x accumulate = {world} x {config.accumulate}, "
            f"but is {config.batch_size}."
        )
    if accelerator.is_main_process:
        config.out.mkdir(parents=True, exist_ok=True)
        remove_partial(config.out)
        remove_partial(config.out / "checkpoints")
    accelerator.wait_for_everyone()
    start = latest_checkpoint(config.out)
    if start is not None and not resume:
        raise InputError(f"{config.out} holds a run already ({start.name}): resume it or name another.")

    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.callback(unwrap, accelerator, model, model.training, "forward" in vars(model))
        model.to(device).train()
        inner = optimizer(model, config)
        for group in inner.param_groups:
            group.setdefault("initial_lr", group["lr"])
        wrapped, stepper = accelerator.prepare(model, inner)
        run = Run(config, model, inner, Average(model, config), Window(device), accelerator.scaler)
        if start is not None:
            run.restore(start)
        if run.step >= config.steps:
            return Trained(run.step, run.weights())
        journal = stack.enter_context(journal_of(config, accelerator, run.step))
        shares = Shares(config, run.step, rank, world)
        batches = stack.enter_context(closing(batches_of(data, shares, config, device)))
        stop = stack.enter_context(Stop(world))
        trained = [weight for group in inner.param_groups for weight in group["params"]]
        noise_seed = key(config.seed, NOISE)

        while run.step < config.steps:
            for group in inner.param_groups:
                group["lr"] = group["initial_lr"] * learning_rate(config, run.step)
            total = torch.zeros((), device=device)
            for micro in range(config.accumulate):
                samples, batch = next(batches)
                batch = moved(batch, device)
                reseed(key(config.seed, DROPOUT, run.step, rank, micro), device)
                with nullcontext() if micro == config.accumulate - 1 else accelerator.no_sync(wrapped):
                    value = loss(wrapped, batch, Noise(noise_seed, samples)).mean() / config.accumulate
                    accelerator.backward(value)
                total += value.detach()
            norm = accelerator.clip_grad_norm_(trained, math.inf if config.clip is None else config.clip)
            stepper.step()
            stepper.zero_grad()
            run.average.update(run.step)
            run.window.add(total, norm)
            run.step += 1

            last, signalled = run.step == config.steps, stop.agreed()
            logs = last or run.step % config.log_every == 0
            saves = last or bool(signalled) or run.step % config.save_every == 0
            if logs or saves:  # the only steps that wait for the device
                figures = run.figures(accelerator)
                if logs:
                    journal.write(run.step, figures)
                    run.window.restart(run.step)
            if evaluate and (last or (config.evaluate_every and run.step % config.evaluate_every == 0)):
                reseed(key(config.seed, EVALUATE, run.step), device)
                journal.write(run.step, run.evaluate(evaluate))
            if saves and accelerator.is_main_process:
                run.save()
            if signalled and not last:
                accelerator.wait_for_everyone()
                raise Interrupted(signalled, run.step, config.steps, run.checkpoint())
            journal.advance(run.step)
        accelerator.wait_for_everyone()
        return Trained(run.step, run.weights())
