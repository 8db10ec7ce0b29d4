"""An experiment with all features of the engine.

Two alternating optimizers, batch norm, a codebook with moving averages, a penalty on means over the batch.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxae import run
from jaxae.core.step import alternate, descend


@dataclass(frozen=True)
class Config(run.Config):
    """A 2-D code."""

    latent: int = 2


class Norm(nn.Module):
    """Batch norm over the mapped axis."""

    @nn.compact
    def __call__(self, x, training, axis):
        return nn.BatchNorm(not training, momentum=0.9, axis_name=axis)(x)


class Toy(nn.Module):
    """Encoder with batch norm, decoder, and a critic of noisy codes."""

    shape: tuple[int, ...]
    latent: int

    def setup(self):
        self.encoder = nn.Dense(self.latent, use_bias=False)  # no bias: batch norm would subtract it
        self.decoder = nn.Dense(self.shape[0] * self.shape[1] * self.shape[2])
        self.critic = nn.Dense(1)
        self.norm = Norm()
        self.codes = self.variable("codebook", "codes", jnp.zeros, (self.latent,))

    def __call__(self, x, training=False, axis=None):
        z = self.norm(self.encoder(x.reshape(len(x), -1)), training, axis)
        return z, self.decode(z), self.discriminate(z)

    def discriminate(self, z):
        return self.critic(z)[:, 0]

    def encode(self, x):
        return self(x)[0]

    def decode(self, z):
        return nn.sigmoid(self.decoder(z)).reshape(-1, *self.shape)


def build(config, info):
    """Reconstruction error and a minimax term."""
    model = Toy(info.shape, config.latent)

    def forward(variables, batch):
        found, updates = model.apply(variables, batch.x, batch.training, batch.axis, mutable=["batch_stats"])
        return found, dict(updates) if batch.training else {}

    def reconstruct(variables, batch, key):
        (z, y, score), updates = forward(variables, batch)
        error = jnp.sum((y - batch.x) ** 2, axis=(1, 2, 3))
        activity = batch.mean(jnp.abs(z))
        penalty = batch.repeat(jnp.sum((activity - 0.5) ** 2))
        codes = 0.9 * variables["codebook"]["codes"] + 0.1 * activity
        return {"loss": error - 0.1 * score + penalty, "mse": error}, {**updates, "codebook": {"codes": codes}}

    def criticise(variables, batch, key):
        z = jax.lax.stop_gradient(forward(variables, batch)[0][0]) + batch.noise(key, (config.latent,))
        return {"loss": nn.softplus(model.apply(variables, z, method="discriminate"))}, {}

    transition = alternate(
        descend(reconstruct, optax.adam(config.lr), wrt=("encoder", "decoder", "norm")),
        descend(criticise, optax.sgd(0.1), wrt=("critic",), name="critic"),
    )
    return run.Experiment(model, transition, reconstruct)
