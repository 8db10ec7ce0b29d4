"""Random numbers of JAX in an ONNX graph: the bits of Threefry, as floats, and the inverse of the error function."""

from typing import Any

import numpy as np

from jaxae.run.onnx_graph import INT, MASK, Graph, Unsupported, shape


def threefry(g: Graph, key: Any, count: Any) -> tuple[Any, Any]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011) of (0, count). key: int64 [..., 2] of uint32."""

    def word(i: int) -> Any:
        return g.op("Gather", key, np.int64(i), axis=-1)

    def plus(a: Any, b: Any) -> Any:
        return g.op("BitwiseAnd", g.op("Add", a, b), np.int64(MASK))

    k0, k1 = (g.op("Unsqueeze", word(i), np.array([-1], INT)) for i in (0, 1))
    k2 = g.op("BitwiseXor", g.op("BitwiseXor", k0, k1), np.int64(0x1BD11BDA))
    keys = (k0, k1, k2)
    a, b = k0, plus(count, k1)
    for i in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            a = plus(a, b)
            high = g.op("BitwiseAnd", g.op("Mul", b, np.int64(2**turn)), np.int64(MASK))
            b = g.op("BitwiseXor", g.op("BitwiseOr", high, g.op("Div", b, np.int64(2 ** (32 - turn)))), a)
        a, b = plus(a, keys[(i + 1) % 3]), plus(plus(b, keys[(i + 2) % 3]), np.int64(i + 1))
    return a, b


def random_bits(g: Graph, eqn: Any, key: Any) -> Any:
    """32 random bits for each key and entry, as with `jax_threefry_partitionable`."""
    if eqn.params["bit_width"] != 32:
        raise Unsupported("random bits of another width than 32 have no translation")
    own = eqn.params["shape"]
    a, b = threefry(g, key, np.arange(int(np.prod(own)), dtype=INT))
    return g.reshape(g.op("BitwiseXor", a, b), shape(eqn.outvars[0]))


def random_split(g: Graph, eqn: Any, key: Any) -> Any:
    """Keys, as with `jax_threefry_partitionable`."""
    own = eqn.params["shape"]
    parts = threefry(g, key, np.arange(int(np.prod(own)), dtype=INT))
    a, b = (g.op("Unsqueeze", part, np.array([-1], INT)) for part in parts)
    return g.reshape(g.op("Concat", a, b, axis=-1), shape(eqn.outvars[0]))


def erf_inv(g: Graph, eqn: Any, x: Any) -> Any:  # noqa: ARG001
    """Giles 2010, "Approximating the erfinv function", table 5, as in XLA."""
    centre = "2.81022636e-08 3.43273939e-07 -3.5233877e-06 -4.39150654e-06 0.00021858087 -0.00125372503 -0.00417768164"
    centre += " 0.246640727 1.50140941"
    tail = "-0.000200214257 0.000100950558 0.00134934322 -0.00367342844 0.00573950773 -0.0076224613 0.00943887047"
    tail += " 1.00167406 2.83297682"
    one = np.float32(1)
    w = g.op("Neg", g.op("Log", g.op("Mul", g.op("Sub", one, x), g.op("Add", one, x))))

    def polynomial(at: Any, coefficients: str) -> Any:
        total, *others = (np.float32(c) for c in coefficients.split())
        for c in others:
            total = g.op("Add", c, g.op("Mul", total, at))
        return total

    near = polynomial(g.op("Sub", w, np.float32(2.5)), centre)
    far = polynomial(g.op("Sub", g.op("Sqrt", w), np.float32(3)), tail)
    return g.op("Mul", x, g.op("Where", g.op("Less", w, np.float32(5)), near, far))


def bits_as_float(g: Graph, eqn: Any, x: Any) -> Any:
    """float32 of the bits of a positive normal number."""
    if eqn.outvars[0].aval.dtype != np.float32 or eqn.invars[0].aval.dtype != np.uint32:
        raise Unsupported("bitcast_convert_type other than of uint32 into float32 has no translation")
    mantissa = g.cast(g.op("BitwiseAnd", x, np.int64(2**23 - 1)), np.float32)
    exponent = g.cast(g.op("Sub", g.op("Div", x, np.int64(2**23)), np.int64(127)), np.float32)
    significand = g.op("Add", np.float32(1), g.op("Mul", mantissa, np.float32(2**-23)))
    return g.op("Mul", significand, g.op("Pow", np.float32(2), exponent))
