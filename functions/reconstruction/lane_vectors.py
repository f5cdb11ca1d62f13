"""Vectors of 16 floats for numba kernels: one number of each of 16 slices ("lanes").

LLVM vectorises a loop over 16 lanes poorly or not at all. A value of type `lane_vector` is an LLVM vector instead, which
becomes one AVX-512, two AVX or four SSE or NEON registers. In a kernel:

    a = load(array, at)             # array[at : at + LANES] of a one-dimensional contiguous float32 array
    store(array, at, a * w + a)     # +, -, * with vectors and with float32 scalars (the same for all lanes)
    v = spread(w)                   # all lanes hold w

Lanes never mix, so a lane's bits depend on its own numbers alone. A product and a sum may be fused (one rounding).
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16
ALIGNMENT = 64  # bytes: a vector that starts here lies in one cache line

Floats = npt.NDArray[np.float32]

# numba carries few types, and of `intrinsic` wrong ones.
_intrinsic: Any = intrinsic
_signature: Any = signature
_infer_global: Any = infer_global
_lower_builtin: Any = lower_builtin
FLOAT = ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
FUSED = ("contract",)  # lets LLVM use fused multiply-add, nothing else


def aligned_empty(*shape: int) -> Floats:
    """An uninitialised C-contiguous float32 array whose first element starts a cache line.

    Vectors of an array that numpy aligned as it likes would straddle two cache lines each.
    """
    size = int(np.prod(shape))
    memory = np.empty(4 * size + ALIGNMENT, dtype=np.uint8)
    skip = -memory.ctypes.data % ALIGNMENT
    return memory[skip : skip + 4 * size].view(np.float32).reshape(shape)


class LaneVector(types.Type):
    """numba's type of a vector of `LANES` float32."""

    def __init__(self) -> None:
        super().__init__(name=f"LaneVector({LANES} x float32)")


lane_vector = LaneVector()


@register_model(LaneVector)
class _LaneVectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: LaneVector) -> None:
        super().__init__(manager, fe_type, VECTOR)  # type: ignore[no-untyped-call]


@_intrinsic
def load(typingctx: Any, array: Any, at: Any) -> Any:
    """``load(array, at)``: the vector ``array[at : at + LANES]``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(vector_pointer(context, builder, sig.args[0], args[0], args[1]), align=4)

    return lane_vector(array, types.intp), codegen


@_intrinsic
def store(typingctx: Any, array: Any, at: Any, value: Any) -> Any:
    """``store(array, at, value)``: ``array[at : at + LANES] = value``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], vector_pointer(context, builder, sig.args[0], args[0], args[1]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lane_vector), codegen


@_intrinsic
def spread(typingctx: Any, value: Any) -> Any:
    """``spread(value)``: a vector whose lanes all are `value` (float32)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return broadcast(builder, args[0])

    return lane_vector(types.float32), codegen


@_intrinsic
def transpose(typingctx: Any, source: Any, at: Any, step: Any, target: Any, to: Any, put: Any) -> Any:
    """``transpose(source, at, step, target, to, put)``: a block of LANES x LANES numbers, rows to columns.

    Row i is ``source[at + i * step :][: LANES]``; column i becomes ``target[to + i * put :][: LANES]``.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows = []
        for row in range(LANES):
            offset = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, row)))
            rows.append(builder.load(vector_pointer(context, builder, sig.args[0], args[0], offset), align=4))
        half = LANES // 2
        masks = [
            ir.Constant(ir.VectorType(ir.IntType(32), LANES), [first + i // 2 + LANES * (i % 2) for i in range(LANES)])
            for first in (0, half)
        ]
        # Four rounds of interleaving the first half of the rows with the second.
        for _ in range(LANES.bit_length() - 1):
            rows = [builder.shuffle_vector(rows[row], rows[row + half], mask) for row in range(half) for mask in masks]
        for row in range(LANES):
            offset = builder.add(args[4], builder.mul(args[5], ir.Constant(args[5].type, row)))
            builder.store(rows[row], vector_pointer(context, builder, sig.args[3], args[3], offset), align=4)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), codegen


def vector_pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    """For intrinsics: where the vector from ``array[at]`` on lies."""
    # Taken from the array's structure as it is: numba's usual accessor copies all of it, which takes long to compile.
    data = context.data_model_manager[array_type].get(builder, array, "data")
    return builder.bitcast(builder.gep(data, [at]), VECTOR.as_pointer())


def broadcast(builder: Any, value: Any) -> Any:
    """For intrinsics: a vector of which all lanes are a float."""
    undefined = ir.Constant(VECTOR, ir.Undefined)
    index = ir.IntType(32)
    first = builder.insert_element(undefined, value, ir.Constant(index, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(index, LANES), [0] * LANES))


def _register(symbol: Any, instruction: str) -> None:
    """Teach numba an operator for two vectors, and for a vector and a scalar on either side."""
    pairs = [(lane_vector, lane_vector), (lane_vector, types.float32), (types.float32, lane_vector)]

    class Template(ConcreteTemplate):
        cases = [_signature(lane_vector, *pair) for pair in pairs]  # noqa: RUF012

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        operands = [
            value if kind == lane_vector else broadcast(builder, value)
            for kind, value in zip(sig.args, args, strict=True)
        ]
        return getattr(builder, instruction)(*operands, flags=FUSED)

    _infer_global(symbol)(Template)
    for pair in pairs:
        _lower_builtin(symbol, *pair)(lower)


_register(operator.add, "fadd")
_register(operator.sub, "fsub")
_register(operator.mul, "fmul")
