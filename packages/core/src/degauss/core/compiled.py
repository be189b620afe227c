r"""A whole run as one compiled graph, or as one CUDA graph: nothing for the host to do between its steps.

``prepare`` takes the arguments of ``simulate`` and does all the host has to do: it computes the coefficients, and makes
one run to learn which random numbers the kernel asks for. They are the same for every seed, so the ``Run`` it returns
draws them before its steps and hands them in as inputs.

    run = prepare(solver(denoiser, schedule), x, grid, noise)    # run(x, noise) is simulate(kernel, x, grid, noise)
    run.traced()      # one flat graph of tensor operations; what depends on the times alone is computed now
    run.compiled()    # that graph through torch.compile
    run.captured()    # on a GPU: all that the run launches, recorded once and replayed by one launch

They combine: ``run.compiled().captured()``. Steps are unrolled, so compiling takes as long as compiling the network
once for every evaluation. Capturing costs a few runs, and sees what cannot be traced: a network that is compiled by
itself, or kernels of one's own.

A run keeps to the shape, dtype, device and grid it was prepared for. What the denoiser holds, its weights and
conditioning, is read at every run: to change it, write into it in place. All noise of a run is in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from degauss.core.kernel import Kernel
from degauss.core.noise import Clock, Noise

_WARM_UPS = 3

Draw = Callable[[Noise, Tensor], Tensor]
"""A draw, like a given tensor, from a noise that is still to come."""


class Request(NamedTuple):
    """One of a run's draws; ``like`` has a shape, a dtype and a device, but no memory."""

    draw: Draw
    like: Tensor


@dataclass(frozen=True)
class Run:
    """``run(x, noise)`` is the state at the last time of the grid, from x at the first. Made by ``prepare``.

    ``steps(x, *drawn)``: the run, given the answers to ``asked``. ``timed(*times, x, *drawn)``: the same, where
    ``times`` are the tensors of the kernel's first carry, which never change. ``x``, ``noise``: an example of a start
    and of its randomness.
    """

    steps: Callable[..., Tensor]
    timed: Callable[..., Tensor]
    times: tuple[Tensor, ...]
    asked: tuple[Request, ...]
    x: Tensor
    noise: Noise

    def __call__(self, x: Tensor, noise: Noise, /) -> Tensor:
        if (x.shape, x.dtype, x.device) != (self.x.shape, self.x.dtype, self.x.device):
            raise ValueError(f"this run was prepared for {_described(self.x)}, got {_described(x)}")
        return self.steps(x, *self._drawn(noise))

    def traced(self) -> Run:
        """The run as one flat graph of tensor operations, for torch 2's compilers; it is differentiable.

        Gradients that the denoiser blocks or takes itself are ordinary operations of the graph. Raises ValueError
        where the graph's result is not the run's: the denoiser is random, or has kernels unknown to PyTorch.
        """
        inputs = self._example()
        with torch.inference_mode(False), torch.no_grad():
            # Twice: updates in place become new values, without which nothing could be computed ahead of its time, and
            # a denoiser that takes gradients is only understood by the first.
            timed = (*self.times, *inputs)
            graph = make_fx(functionalize(make_fx(self.timed)(*timed)))(*timed)
            _fold(graph, self.times)
            # From another state: a number that should have been computed, but was written down, would show.
            others = tuple(0.5 * tensor for tensor in inputs)
            ours, plain = graph(*others), self.steps(*others)
        if not torch.allclose(ours, plain, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ValueError("the run's trace gives another result: its denoiser is random or has kernels of its own")
        return replace(self, steps=graph)

    def compiled(self, backend: str = "inductor") -> Run:
        """The traced run through ``torch.compile``, which compiles at the first call."""
        graph = self.steps if isinstance(self.steps, GraphModule) else self.traced().steps
        return replace(self, steps=torch.compile(graph, fullgraph=True, dynamic=False, backend=backend))

    def captured(self) -> Run:
        """The run as a CUDA graph, into which start and noise are copied. It cannot be differentiated."""
        if self.x.device.type != "cuda":
            raise ValueError(f"only a run on a CUDA device can be captured; this one is on {self.x.device}")
        return replace(self, steps=_Captured(self.steps, self._example()))

    def _example(self) -> tuple[Tensor, ...]:
        return self.x, *self._drawn(self.noise)

    def _drawn(self, noise: Noise) -> tuple[Tensor, ...]:
        return tuple(draw(noise, like) for draw, like in self.asked)


def prepare(kernel: Kernel[Any], x: Tensor, grid: Tensor, noise: Noise) -> Run:
    """``simulate(kernel, x, grid, noise)`` as a value, for any start like x and any noise.

    Raises ValueError for a kernel that wants more of the noise than draws, such as its seed.
    """
    asked: list[Request] = []

    def learn(draw: Draw, like: Tensor) -> Tensor:
        asked.append(Request(draw, torch.empty((), dtype=like.dtype, device=like.device).expand(like.shape)))
        return draw(noise, like)

    def through(carry: Any, x: Tensor, answer: Callable[[Draw, Tensor], Tensor]) -> Tensor:
        stand_in = _StandIn(answer)
        for i in range(len(grid) - 1):
            carry, x = kernel.step(carry, x, i, stand_in)  # pyright: ignore[reportArgumentType]
        return x

    def timed(*tensors: Tensor) -> Tensor:
        times, x, answers = tensors[: len(at)], tensors[len(at)], iter(tensors[len(at) + 1 :])
        placed = [*leaves]
        for place, time in zip(at, times, strict=True):
            placed[place] = time
        return through(pytree.tree_unflatten(placed, shape), x, lambda draw, like: next(answers))

    # Also where the caller is in inference mode: what is made here serves later runs, which may be differentiated.
    with torch.inference_mode(False), torch.no_grad():
        x = x.detach().clone()
        first = kernel.init(x, grid)
        through(first, x, learn)
    leaves, shape = pytree.tree_flatten(first)
    at = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    times = tuple(leaves[place] for place in at)
    return Run(partial(timed, *times), timed, times, tuple(asked), x, noise)


@dataclass(frozen=True)
class _StandIn:
    """In the place of a ``Noise``: has every draw answered by someone else."""

    answer: Callable[[Draw, Tensor], Tensor]

    def normal(self, like: Tensor, draw: int = 0) -> Tensor:
        return self.answer(lambda noise, like: noise.normal(like, draw), like)

    def uniform(self, like: Tensor, draw: int = 0) -> Tensor:
        return self.answer(lambda noise, like: noise.uniform(like, draw), like)

    def brownian(self, clock: Clock, i: int, like: Tensor) -> Tensor:
        return self.answer(lambda noise, like: noise.brownian(clock, i, like), like)

    def __getattr__(self, name: str) -> NoReturn:
        raise ValueError(f"only draws can be prepared; this kernel asks its noise for {name!r}")


def _described(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)} on {x.device}"


class _Captured:
    """Steps recorded on a CUDA device: replays them on its own copies of their inputs."""

    def __init__(self, steps: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device_of(inputs[0]), torch.inference_mode(False), torch.no_grad():
            self.inputs = [tensor.clone() for tensor in inputs]
            # Libraries choose their kernels and compilers compile at a first call, which cannot be recorded.
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(_WARM_UPS):
                    steps(*self.inputs)
            torch.cuda.current_stream().wait_stream(beside)
            with torch.cuda.graph(self.graph):
                self.end = steps(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
            raise ValueError("a captured run cannot be differentiated; a compiled one can")
        for mine, yours in zip(self.inputs, inputs, strict=True):
            mine.copy_(yours)
        self.graph.replay()
        return self.end.clone()


def _fold(graph: GraphModule, times: Sequence[Tensor]) -> None:
    """Compute now what depends on the times alone: the schedule's answers, an embedding's sines and cosines.

    ``times`` are the first inputs of the graph, and no inputs any more.
    """
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"][: len(times)]
    known: dict[Node, Tensor] = dict(zip(inputs, times, strict=True))
    for node in graph.graph.nodes:
        sources = node.all_input_nodes
        if node.op == "call_function" and sources and not node.is_impure() and all(each in known for each in sources):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), known.__getitem__)
            value = node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue, reportUnknownVariableType]
            if isinstance(value, Tensor):
                known[node] = value
    for i, (node, value) in enumerate(known.items()):
        if not all(user in known for user in node.users):
            graph.register_buffer(f"at_times_{i}", value)
            with graph.graph.inserting_before(next(iter(graph.graph.nodes))):
                constant = graph.graph.get_attr(f"at_times_{i}")
            node.replace_all_uses_with(constant, delete_user_cb=lambda user: user not in known)
    graph.graph.eliminate_dead_code()
    for node in inputs:
        graph.graph.erase_node(node)
    graph.recompile()
