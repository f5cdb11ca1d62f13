"""Fourier transforms of 16 slices at once, written for `lane_vectors`.

A complex element is 32 floats: the real parts of the 16 lanes, then their imaginary parts. Since the lanes are the fastest
axis, every operation of a transform is one on whole vectors and nothing is ever shuffled: at the machine's full vector
width this is two to four times faster than a library that transforms one line at a time.

The algorithm is Stockham's self-sorting one with radices 8, 4, 5 and 3 (Van Loan, *Computational Frameworks for the Fast
Fourier Transform*, 1992, section 1.7, DOI 10.1137/1.9781611970999); a line and its copy have to fit into a core's second
cache, which lines of up to 4096 elements do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .lane_vectors import FUSED, LANES, VECTOR, broadcast, load, store, vector_pointer

ELEMENT = 2 * LANES  # floats of one complex element

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_HALF = np.float32(0.5)


@dataclass(frozen=True)
class LanePlan:
    """What `transform` needs for one length: the radices of its passes and their twiddle factors."""

    length: int
    radices: Integers
    twiddles: Floats


def make_plan(length: int) -> LanePlan:
    """Plan of a transform of `length` complex elements; `length` must be one that `fast_length` returns."""
    radices = _factors(length)
    if radices is None:
        raise ValueError(f"a line of {length} elements has no plan; take fast_length({length})")
    twiddles = []
    rest = length
    for radix in radices:
        groups = rest // radix
        powers = np.outer(np.arange(groups), np.arange(1, radix))
        turn = np.exp(-2j * np.pi * powers / rest)
        twiddles.append(np.stack([turn.real, turn.imag], axis=-1).ravel())
        rest = groups
    flat = np.concatenate([*twiddles, np.zeros(1)]).astype(np.float32)
    return LanePlan(length, np.array(radices, dtype=np.int64), flat)


def fast_length(least: int, multiple: int = 1) -> int:
    """The least length from `least` on that has a plan and is a multiple of `multiple`."""
    length = -(-max(least, 1) // multiple) * multiple
    while _factors(length) is None:
        length += multiple
    return length


def _factors(length: int) -> list[int] | None:
    """Radices of the passes, or None: 3, 5 and powers of two from 4 on, few large ones first."""
    factors = []
    for odd in (5, 3):
        while length % odd == 0:
            factors.append(odd)
            length //= odd
    twos = length.bit_length() - 1
    if length != 1 << twos or twos == 1:
        return None
    fours = -twos % 3
    return [8] * ((twos - 2 * fours) // 3) + [4] * fours + factors


@dataclass(frozen=True)
class _Complex:
    """Two LLVM vectors and the builder that computes with them."""

    builder: Any
    real: Any
    imaginary: Any

    def __add__(self, other: _Complex) -> _Complex:
        return self._both("fadd", other)

    def __sub__(self, other: _Complex) -> _Complex:
        return self._both("fsub", other)

    def __mul__(self, factor: float) -> _Complex:
        vector = ir.Constant(VECTOR, [factor] * LANES)
        return self._both("fmul", _Complex(self.builder, vector, vector))

    def _both(self, operation: str, other: _Complex) -> _Complex:
        apply = getattr(self.builder, operation)
        real = apply(self.real, other.real, flags=FUSED)
        return _Complex(self.builder, real, apply(self.imaginary, other.imaginary, flags=FUSED))

    def plus_i_times(self, other: _Complex) -> _Complex:
        real = self.builder.fsub(self.real, other.imaginary, flags=FUSED)
        return _Complex(self.builder, real, self.builder.fadd(self.imaginary, other.real, flags=FUSED))

    def minus_i_times(self, other: _Complex) -> _Complex:
        real = self.builder.fadd(self.real, other.imaginary, flags=FUSED)
        return _Complex(self.builder, real, self.builder.fsub(self.imaginary, other.real, flags=FUSED))

    def turned(self, cosine: Any, sine: Any) -> _Complex:
        """Times (cosine + i sine), both vectors."""
        build = self.builder
        rr, ii = build.fmul(self.real, cosine, flags=FUSED), build.fmul(self.imaginary, sine, flags=FUSED)
        ri, ir_ = build.fmul(self.real, sine, flags=FUSED), build.fmul(self.imaginary, cosine, flags=FUSED)
        return _Complex(build, build.fsub(rr, ii, flags=FUSED), build.fadd(ri, ir_, flags=FUSED))


def _dft(x: list[_Complex]) -> list[_Complex]:
    """The discrete Fourier transform of a few elements, as instructions."""
    match len(x):
        case 1:
            return x
        case 3:
            total, difference = x[1] + x[2], (x[1] - x[2]) * math.sin(2 * math.pi / 3)
            middle = x[0] - total * 0.5
            return [x[0] + total, middle.minus_i_times(difference), middle.plus_i_times(difference)]
        case 5:
            c1, c2, s1, s2 = (f(a * math.pi / 5) for f in (math.cos, math.sin) for a in (2, 4))
            p, q, v, w = x[1] + x[4], x[1] - x[4], x[2] + x[3], x[2] - x[3]
            near, far = x[0] + p * c1 + v * c2, x[0] + p * c2 + v * c1
            turn_near, turn_far = q * s1 + w * s2, q * s2 - w * s1
            return [
                x[0] + p + v,
                near.minus_i_times(turn_near),
                far.minus_i_times(turn_far),
                far.plus_i_times(turn_far),
                near.plus_i_times(turn_near),
            ]
    even, odd = _dft(x[::2]), _dft(x[1::2])
    half = len(x) // 2
    low, high = [], []
    for k in range(half):
        if 4 * k == len(x):
            low.append(even[k].minus_i_times(odd[k]))
            high.append(even[k].plus_i_times(odd[k]))
            continue
        if k == 0:
            turned = odd[k]
        else:  # an eighth or three eighths of a turn back: (1 - i) or (-1 - i) times the root of a half
            shifted = odd[k] * math.sqrt(0.5)
            turned = (shifted if k == 1 else shifted * -1.0).minus_i_times(shifted)
        low.append(even[k] + turned)
        high.append(even[k] - turned)
    return low + high


def _make_butterfly(radix: int) -> Any:
    """``butterfly(source, at, step, target, to, put, twiddles, first)``: one butterfly of a pass.

    Elements ``source[at + k * step]`` are transformed and put at ``target[to + k * put]``, times the (k - 1)th twiddle
    factor from ``twiddles[first]`` on. Written as instructions: numba takes four times as long to compile the same from
    Python statements.
    """
    intrinsic_: Any = intrinsic

    @intrinsic_
    def butterfly(
        typingctx: Any, source: Any, at: Any, step: Any, target: Any, to: Any, put: Any, twiddles: Any, first: Any
    ) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            def constant(value: int) -> Any:
                return ir.Constant(args[1].type, value)

            def pointers(array: int, begin: Any, distance: Any) -> list[tuple[Any, Any]]:
                places = [builder.add(begin, builder.mul(distance, constant(k))) for k in range(radix)]
                return [
                    tuple(
                        vector_pointer(
                            context, builder, sig.args[array], args[array], builder.add(place, constant(part))
                        )
                        for part in (0, LANES)
                    )
                    for place in places
                ]

            def factor(index: int) -> Any:
                data = context.data_model_manager[sig.args[6]].get(builder, args[6], "data")
                return broadcast(builder, builder.load(builder.gep(data, [builder.add(args[7], constant(index))])))

            x = [
                _Complex(builder, *(builder.load(pointer, align=4) for pointer in pair))
                for pair in pointers(0, args[1], args[2])
            ]
            for k, (value, pair) in enumerate(zip(_dft(x), pointers(3, args[4], args[5]), strict=True)):
                result = value.turned(factor(2 * k - 2), factor(2 * k - 1)) if k else value
                builder.store(result.real, pair[0], align=4)
                builder.store(result.imaginary, pair[1], align=4)
            return context.get_dummy_value()

        number = types.intp
        return types.void(source, number, number, target, number, number, twiddles, number), codegen

    return butterfly


_butterfly_3, _butterfly_4, _butterfly_5, _butterfly_8 = (_make_butterfly(radix) for radix in (3, 4, 5, 8))


@njit(cache=True, nogil=True, error_model="numpy")
def transform(line: Floats, copy: Floats, radices: Integers, twiddles: Floats) -> bool:
    """Forward discrete Fourier transform of one line of complex elements, unnormalised.

    Parameters
    ----------
    line : (length * ELEMENT,) float32
        Overwritten.
    copy : (length * ELEMENT,) float32
        Overwritten.
    radices, twiddles
        Of the length's `LanePlan`.

    Returns
    -------
    bool
        True when the result is in `copy`, False when it is in `line`.

    Notes
    -----
    The inverse transform is the same with real and imaginary parts exchanged before and after.
    """
    source, target = line, copy
    groups, stride, first = line.size // ELEMENT, 1, 0
    swapped = False
    for radix in radices:
        groups //= radix
        step, put = groups * stride * ELEMENT, stride * ELEMENT
        for group in range(groups):
            for part in range(stride):
                at, to = (stride * group + part) * ELEMENT, (radix * stride * group + part) * ELEMENT
                if radix == 8:
                    _butterfly_8(source, at, step, target, to, put, twiddles, first)
                elif radix == 4:
                    _butterfly_4(source, at, step, target, to, put, twiddles, first)
                elif radix == 5:
                    _butterfly_5(source, at, step, target, to, put, twiddles, first)
                else:
                    _butterfly_3(source, at, step, target, to, put, twiddles, first)
            first += 2 * (radix - 1)
        stride *= radix
        source, target = target, source
        swapped = not swapped
    return swapped


def real_roots(length: int) -> Floats:
    """exp(-2 pi i k / length) for k up to length / 4, real and imaginary parts in turn: for the two functions below."""
    turn = np.exp(-2j * np.pi * np.arange(length // 4 + 1) / length)
    return np.stack([turn.real, turn.imag], axis=-1).ravel().astype(np.float32)


@njit(cache=True, nogil=True, error_model="numpy")
def half_to_packed(half: Floats, at: int, step: int, packed: Floats, roots: Floats) -> None:
    """Half spectrum of a real line -> what the transform turns into the line itself, unnormalised.

    The elements of the half spectrum, length / 2 + 1 of them, start at ``half[at]`` and lie `step` floats apart. After
    `transform` of `packed` (length / 2 elements) sample 2 j of the line is the second half (imaginary part) of element j,
    sample 2 j + 1 the first. Of the first and the last element only the real part counts.
    """
    count = packed.size // ELEMENT
    first, last = load(half, at), load(half, at + count * step)
    store(packed, LANES, first + last)
    store(packed, 0, first - last)
    for k in range(1, count // 2 + 1):
        low, high = at + k * step, at + (count - k) * step
        ar, ai, br, bi = load(half, low), load(half, low + LANES), load(half, high), load(half, high + LANES)
        cosine, sine = roots[2 * k], roots[2 * k + 1]
        er, ei, dr, di = ar + br, ai - bi, ar - br, ai + bi
        # i exp(+...) d
        tr, ti = dr * sine - di * cosine, dr * cosine + di * sine
        # Stored with real and imaginary parts exchanged: the transform is then the inverse one.
        store(packed, k * ELEMENT + LANES, er + tr)
        store(packed, k * ELEMENT, ei + ti)
        store(packed, (count - k) * ELEMENT + LANES, er - tr)
        store(packed, (count - k) * ELEMENT, ti - ei)


@njit(cache=True, nogil=True, error_model="numpy")
def packed_to_half(packed: Floats, half: Floats, at: int, step: int, roots: Floats) -> None:
    """What `transform` makes of a real line -> the line's half spectrum.

    Before the transform sample 2 j of the line is the first half (real part) of element j of `packed`, sample 2 j + 1 the
    second. The half spectrum is written as `half_to_packed` reads it.
    """
    count = packed.size // ELEMENT
    even, odd = load(packed, 0), load(packed, LANES)
    for k in range(1, count // 2 + 1):
        low, high = k * ELEMENT, (count - k) * ELEMENT
        ar, ai, br, bi = load(packed, low), load(packed, low + LANES), load(packed, high), load(packed, high + LANES)
        cosine, sine = roots[2 * k], roots[2 * k + 1]
        er, ei, dr, di = (ar + br) * _HALF, (ai - bi) * _HALF, (ai + bi) * _HALF, (br - ar) * _HALF
        tr, ti = dr * cosine - di * sine, dr * sine + di * cosine
        store(half, at + k * step, er + tr)
        store(half, at + k * step + LANES, ei + ti)
        store(half, at + (count - k) * step, er - tr)
        store(half, at + (count - k) * step + LANES, ti - ei)
    store(half, at, even + odd)
    store(half, at + LANES, even - even)
    store(half, at + count * step, even - odd)
    store(half, at + count * step + LANES, even - even)
