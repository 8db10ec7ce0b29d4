"""Activations, keys, and matrix products of a given precision."""

from collections.abc import Callable
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

Activation = Callable[[jax.Array], jax.Array]
Keys = Key[Array, " B"]


def layer_keys(keys: Keys, path: tuple[str, ...]) -> Keys:
    """The keys of the examples for the noise of the layer at this path."""
    return numbered(keys, jnp.uint32(crc32("/".join(path).encode())))


def numbered(keys: Keys, number: Any) -> Keys:
    """The key of every example with this number folded in."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def linear(x: jax.Array) -> jax.Array:
    """No activation."""
    return x


@jax.custom_vjp
def mixed_dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """[..., I] x [I, O] -> [..., O]: bfloat16 operands, float32 accumulation and result, also in the gradient.

    The derivative is written out because XLA's own would multiply float32 by bfloat16.
    """
    return _product(a, b, (((a.ndim - 1,), (0,)), ((), ())))


def _product(a: jax.Array, b: jax.Array, dimensions: Any) -> jax.Array:
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _forward(a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return mixed_dot(a, b), (a, b)


def _backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = saved
    lead = tuple(range(a.ndim - 1))
    return _product(g, b, (((g.ndim - 1,), (1,)), ((), ()))), _product(a, g, ((lead, lead), ((), ())))


mixed_dot.defvjp(_forward, _backward)


def dot_general(precision: str) -> Any:
    """The matrix product of a Flax `Dense` for a `precision` of `float32` or `mixed`."""
    if precision == "float32":
        return jax.lax.dot_general
    if precision != "mixed":
        raise ValueError(f"precision={precision} is unknown; use one of float32, mixed")

    def mixed(a: jax.Array, b: jax.Array, dimensions: Any, **_: Any) -> jax.Array:
        if dimensions != (((a.ndim - 1,), (0,)), ((), ())):
            raise ValueError(
                "mixed precision supports contraction of the last axis of the input with the first axis of the kernel "
                f"only, not {dimensions}; use precision=float32"
            )
        return mixed_dot(a, b)

    return mixed
