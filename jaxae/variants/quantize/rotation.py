"""The rotation trick, an estimator of the gradient of quantization (Fifty et al. 2024)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.variants.quantize.base import straight_through

TINY = 1e-12  # smallest norm


def rotated(z: Float[Array, "*P Z"], q: Float[Array, "*P Z"]) -> Float[Array, "*P Z"]:
    """The value of q, bit for bit, with the gradient to z of |q| / |z| R z, in which R rotates z onto q.

    Fifty, Junkins, Duan, Iger, Liu, Amid, Thrun & Re 2024, section 4.2: R = I - 2 r r^T + 2 q' z'^T for unit vectors
    z', q' and r = (z' + q') / |z' + q'|; R and |q| / |z| are constants. The gradient keeps its angle to the code.
    """
    fixed = jax.lax.stop_gradient
    a, b = unit(fixed(z)), unit(fixed(q))
    r = unit(a + b)
    moved = z - 2 * r * _dot(r, z) + 2 * b * _dot(a, z)
    scale = _norm(fixed(q)) / jnp.maximum(_norm(fixed(z)), TINY)
    return straight_through(scale * moved, q)


def _dot(a: Float[Array, "*P Z"], b: Float[Array, "*P Z"]) -> Float[Array, "*P 1"]:
    return jnp.sum(a * b, axis=-1, keepdims=True)


def _norm(a: Float[Array, "*P Z"]) -> Float[Array, "*P 1"]:
    return jnp.sqrt(_dot(a, a))


def unit(a: Float[Array, "*P Z"]) -> Float[Array, "*P Z"]:
    """These vectors scaled to norm 1; a vector 0 stays 0, with gradient 0."""
    zero = ~jnp.any(a, axis=-1, keepdims=True)
    return jnp.where(zero, 0.0, a / jnp.maximum(_norm(jnp.where(zero, 1.0, a)), TINY))
