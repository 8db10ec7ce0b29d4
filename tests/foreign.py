"""An autoencoder of wrapped nets: a module of Flax NNX with batch norm and dropout, and a pair of pure functions."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxae import nets, run
from jaxae.core.step import descend
from jaxae.variants import autoencoder


@dataclass(frozen=True)
class Config(run.Config):
    """A code of four dimensions."""

    latent: int = 4
    hidden: int = 32
    batch_norm: bool = True


class Encoder(nnx.Module):
    """Dense layers."""

    def __init__(self, size, hidden, latent, batch_norm, rngs):
        self.first = nnx.Linear(size, hidden, use_bias=not batch_norm, rngs=rngs)
        self.last = nnx.Linear(hidden, latent, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, use_fast_variance=False, rngs=rngs) if batch_norm else None
        self.dropout = nnx.Dropout(0.25, rngs=rngs)

    def __call__(self, x):
        h = self.first(x.reshape(len(x), -1))
        return self.last(self.dropout(nnx.tanh(h if self.norm is None else self.norm(h))))


def build(config, info):
    """Squared error, and Adam."""
    size = info.shape[0] * info.shape[1] * info.shape[2]

    def encoder(key):
        return Encoder(size, config.hidden, config.latent, config.batch_norm, nnx.Rngs(key))

    def params(key):
        return {"kernel": 0.1 * jax.random.normal(key, (config.latent, size)), "bias": jnp.zeros(size)}

    def decoder(params, z):
        return (z @ params["kernel"] + params["bias"][None]).reshape(-1, *info.shape)

    model = autoencoder.Autoencoder(nets.wrap(encoder), nets.wrap(params, decoder), output=autoencoder.output(info))
    loss = autoencoder.loss(model, "mse")
    return run.Experiment(model, descend(loss, optax.adam(config.lr)), loss)
