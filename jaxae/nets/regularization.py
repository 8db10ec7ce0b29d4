"""Batch norm and dropout."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.nets.layers import Keys, layer_keys


class Regularization(nn.Module):
    """Batch norm (Ioffe & Szegedy 2015; over the global batch) and dropout, after the activation of a hidden layer."""

    batch_norm: bool
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "B *D"], keys: Keys | None, axis: str | None) -> Float[Array, "B *D"]:
        if self.batch_norm:
            flat = x.reshape(-1, x.shape[-1])
            # The fast variance, E x^2 - (E x)^2, cancels for means far above the standard deviation.
            norm = nn.BatchNorm(keys is None, momentum=0.99, epsilon=1e-3, axis_name=axis, use_fast_variance=False)
            x = norm(flat).reshape(x.shape)
        if self.dropout >= 1:
            raise ValueError(f"dropout={self.dropout} must be below 1")
        if self.dropout and keys is not None:
            x = drop(x, layer_keys(keys, self.path), self.dropout)
        return x


def drop(x: Float[Array, "B *D"], keys: Keys, rate: float) -> Float[Array, "B *D"]:
    """Dropout (Srivastava et al. 2014): zero each value with probability `rate`, scale the others by 1 / (1 - rate)."""
    mask = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(mask, x / (1 - rate), 0)
