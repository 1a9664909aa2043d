"""Operators that ONNX lacks, or that its runtimes have in float32 only, by those they have in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ._math import LOG_2PI

__all__ = ["translations"]

# Lanczos' coefficients for g = 7: the logarithm of the gamma function to 15 digits.
LANCZOS_G = 7.0
LANCZOS = (
    0.99999999999980993,
    676.5203681218851,
    -1259.1392167224028,
    771.32342877765313,
    -176.61502916214059,
    12.507343278686905,
    -0.13857109526572012,
    9.9843695780195716e-6,
    1.5056327351493116e-7,
)
# Wichura's rational functions for the normal quantile, AS 241: in the middle, in the tails, and far out in them. The
# numerator's coefficients and the denominator's, from the constant on.
MIDDLE = (
    (
        3.3871328727963665,
        133.14166789178438,
        1971.5909503065513,
        13731.69376550946,
        45921.95393154987,
        67265.7709270087,
        33430.57558358813,
        2509.0809287301227,
    ),
    (
        1.0,
        42.31333070160091,
        687.1870074920579,
        5394.196021424751,
        21213.794301586597,
        39307.89580009271,
        28729.085735721943,
        5226.495278852854,
    ),
)
TAIL = (
    (
        1.4234371107496835,
        4.630337846156546,
        5.769497221460691,
        3.6478483247632045,
        1.2704582524523684,
        0.2417807251774506,
        0.022723844989269184,
        0.0007745450142783414,
    ),
    (
        1.0,
        2.053191626637759,
        1.6763848301838038,
        0.6897673349851,
        0.14810397642748008,
        0.015198666563616457,
        0.0005475938084995345,
        1.0507500716444169e-09,
    ),
)
FAR_TAIL = (
    (
        6.657904643501103,
        5.463784911164114,
        1.7848265399172913,
        0.29656057182850487,
        0.026532189526576124,
        0.0012426609473880784,
        2.7115555687434876e-05,
        2.0103343992922881e-07,
    ),
    (
        1.0,
        0.599832206555888,
        0.1369298809227358,
        0.014875361290850615,
        0.0007868691311456133,
        1.8463183175100548e-05,
        1.421511758316446e-07,
        2.0442631033899397e-15,
    ),
)
# Up to here the error function is a series, from here on a continued fraction, and how many terms of both are enough.
SERIES_UPTO, SERIES_TERMS, FRACTIONS = 2.5, 50, 40


def translations() -> dict[Any, Callable[..., Any]]:
    """Functions that write operators into a graph, by torch's own: what `torch.onnx.export` takes."""
    of = _Operators()
    named = {
        "asinh": of.asinh,
        "sinh": of.sinh,
        "softplus": of.softplus,
        "lgamma": of.lgamma,
        "erf": of.erf,
        "special_erf": of.erf,
        "special_erfcx": of.erfcx,
        "special_ndtr": of.ndtr,
        "special_ndtri": of.ndtri,
    }

    def searchsorted(sorted_sequence: Any, self: Any, out_int32: bool = False, right: bool = False) -> Any:
        return of.searchsorted(sorted_sequence, self, right)

    table = {getattr(torch.ops.aten, name).default: _plain(function) for name, function in named.items()}
    return {**table, torch.ops.aten.searchsorted.Tensor: searchsorted}


def _plain(method: Callable[[Any], Any]) -> Callable[..., Any]:
    """A function, to which the exporter can add attributes.

    Parameters are called as torch's own of the operator, `self` included: some versions of the exporter compare names.
    """

    def function(self: Any) -> Any:
        return method(self)

    return function


class _Operators:
    """Of float64 alone."""

    def __init__(self) -> None:
        import onnx
        from onnxscript import opset18

        self.op: Any = opset18
        self.helper, self.double = onnx.helper, onnx.TensorProto.DOUBLE

    def number(self, value: float) -> Any:
        return self.op.Constant(value=self.helper.make_tensor("", self.double, [], [value]))

    def asinh(self, x: Any) -> Any:
        op, size = self.op, self.op.Abs(x)
        root = op.Sqrt(op.Add(op.Mul(size, size), self.number(1.0)))
        return op.Mul(op.Sign(x), op.Log(op.Add(size, root)))

    def sinh(self, x: Any) -> Any:
        op = self.op
        return op.Div(op.Sub(op.Exp(x), op.Exp(op.Neg(x))), self.number(2.0))

    def softplus(self, x: Any) -> Any:
        op = self.op
        rest = op.Log(op.Add(self.number(1.0), op.Exp(op.Neg(op.Abs(x)))))
        return op.Add(op.Max(x, self.number(0.0)), rest)

    def lgamma(self, x: Any) -> Any:
        """Of x > 0 (Lanczos 1964)."""
        op, terms = self.op, self.number(LANCZOS[0])
        for place, term in enumerate(LANCZOS[1:]):
            terms = op.Add(terms, op.Div(self.number(term), op.Add(x, self.number(float(place)))))
        base = op.Add(x, self.number(LANCZOS_G - 0.5))
        power = op.Mul(op.Sub(x, self.number(0.5)), op.Log(base))
        return op.Add(op.Sub(power, base), op.Add(op.Log(terms), self.number(0.5 * LOG_2PI)))

    def _near(self, size: Any) -> Any:
        """erf of 0 <= x <= `SERIES_UPTO`: 2 exp(-x^2) / sqrt(pi) sum_n 2^n x^(2n + 1) / (2n + 1)!!."""
        op, square = self.op, self.op.Mul(size, size)
        term = total = size
        for n in range(1, SERIES_TERMS):
            term = op.Mul(term, op.Mul(square, self.number(2 / (2 * n + 1))))
            total = op.Add(total, term)
        return op.Mul(op.Mul(total, op.Exp(op.Neg(square))), self.number(2 / math.sqrt(math.pi)))

    def _far(self, size: Any) -> Any:
        """exp(x^2) erfc(x) of x >= `SERIES_UPTO`, by Laplace's continued fraction."""
        op, below = self.op, size
        for k in range(FRACTIONS, 0, -1):
            below = op.Add(size, op.Div(self.number(k / 2), below))
        return op.Div(self.number(1 / math.sqrt(math.pi)), below)

    def _parts(self, x: Any) -> tuple[Any, Any, Any]:
        """Which x >= 0 is near, erf where it is, and exp(x^2) erfc(x) where it is not."""
        edge = self.number(SERIES_UPTO)
        return self.op.LessOrEqual(x, edge), self._near(self.op.Min(x, edge)), self._far(self.op.Max(x, edge))

    def erf(self, x: Any) -> Any:
        op, size = self.op, self.op.Abs(x)
        is_near, near, far = self._parts(size)
        rest = op.Sub(self.number(1.0), op.Mul(far, op.Exp(op.Neg(op.Mul(size, size)))))
        return op.Mul(op.Sign(x), op.Where(is_near, near, rest))

    def erfcx(self, x: Any) -> Any:
        """exp(x^2) erfc(x) of x >= 0."""
        op = self.op
        is_near, near, far = self._parts(x)
        small = op.Min(x, self.number(SERIES_UPTO))
        return op.Where(is_near, op.Mul(op.Exp(op.Mul(small, small)), op.Sub(self.number(1.0), near)), far)

    def ndtr(self, x: Any) -> Any:
        """The normal distribution function."""
        op = self.op
        size = op.Mul(op.Abs(x), self.number(math.sqrt(0.5)))
        tail = op.Mul(op.Mul(self.erfcx(size), op.Exp(op.Neg(op.Mul(size, size)))), self.number(0.5))
        return op.Where(op.Less(x, self.number(0.0)), tail, op.Sub(self.number(1.0), tail))

    def ndtri(self, p: Any) -> Any:
        """The normal quantile of 0 < p < 1 (Wichura 1988)."""
        op = self.op
        q = op.Sub(p, self.number(0.5))
        middle = op.Mul(q, self._ratio(MIDDLE, op.Sub(self.number(0.180625), op.Mul(q, q))))
        rest = op.Where(op.Less(q, self.number(0.0)), p, op.Sub(self.number(1.0), p))
        r = op.Sqrt(op.Neg(op.Log(rest)))
        tail = self._ratio(TAIL, op.Sub(r, self.number(1.6)))
        far = self._ratio(FAR_TAIL, op.Sub(r, self.number(5.0)))
        outside = op.Mul(op.Sign(q), op.Where(op.LessOrEqual(r, self.number(5.0)), tail, far))
        return op.Where(op.LessOrEqual(op.Abs(q), self.number(0.425)), middle, outside)

    def _ratio(self, coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Any) -> Any:
        """Of two polynomials."""
        parts = []
        for of_power in coefficients:
            total = self.number(of_power[-1])
            for coefficient in of_power[-2::-1]:
                total = self.op.Add(self.op.Mul(total, x), self.number(coefficient))
            parts.append(total)
        return self.op.Div(*parts)

    def searchsorted(self, edges: Any, x: Any, right: bool) -> Any:
        """How many edges (D, K) lie below, or at, x (D, N)."""
        op = self.op
        ahead, behind = op.Constant(value_ints=[-2]), op.Constant(value_ints=[-1])
        pair = op.Unsqueeze(edges, ahead), op.Unsqueeze(x, behind)
        below = op.LessOrEqual(*pair) if right else op.Less(*pair)
        return op.ReduceSum(op.Cast(below, to=7), behind, keepdims=0)  # 7: int64
