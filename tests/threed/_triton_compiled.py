"""Compile the kernels for an H100, without one: run as a program."""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from degauss.threed import binning_triton, projection_triton, splatting_triton
from degauss.threed.binning import SLACK
from degauss.threed.projection import LOW_PASS, MIN_ALPHA, NEAR
from degauss.threed.splatting import MAX_ALPHA, STOP

TARGET = GPUTarget("cuda", 90, 32)
INTEGERS = ("height", "width", "rows", "columns", "count", "number", "size", "gaussians", "missed", "total")
LONG = ("ids", "starts", "nth", "ends", "counts", "order")


def compiled(kernel: Any, warps: Any = 4, **constants: Any) -> None:
    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in INTEGERS:
            return "i32"
        if name in LONG:
            return "*i64"
        return {"boxes": "*i32", "keys": "*i16"}.get(name, "*fp32")

    source = ASTSource(kernel, signature={name: kind(name) for name in kernel.arg_names}, constexprs=constants)
    built = triton.compile(source, target=TARGET, options={"num_warps": warps})
    assert ".local" not in built.asm["ptx"]
    assert len(built.asm["cubin"]) > 0


def main() -> None:
    drawing: dict[str, Any] = {"TILE": 16, "CHUNK": 32, "MIN_ALPHA": MIN_ALPHA, "MAX_ALPHA": MAX_ALPHA, "STOP": STOP}
    for channels in (3, 7):
        compiled(splatting_triton._forward_kernel, 2, CHANNELS=channels, **drawing)
        compiled(splatting_triton._backward_kernel, 1, CHANNELS=channels, LOG2_E=1.4427, **drawing)
    for degree in (0, 3):
        shape = {"DEGREE": degree, "LANES": 128, "NEAR": NEAR, "LOW_PASS": LOW_PASS}
        compiled(projection_triton._forward_kernel, MIN_ALPHA=MIN_ALPHA, **shape)
        compiled(projection_triton._backward_kernel, **shape)
    compiled(binning_triton._box_kernel, LANES=256, SLACK=SLACK)
    compiled(binning_triton._pair_kernel, LANES=256, SLACK=SLACK, MIN_ALPHA=MIN_ALPHA)


if __name__ == "__main__":
    main()
