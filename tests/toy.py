"""All that the engine carries in one experiment.

Two optimizers in turn, batch norm, an averaged codebook, a penalty on means over the batch.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxae import run
from jaxae.batch import axis, mean, noise, pooled
from jaxae.step import descend, sequence


@dataclass(frozen=True)
class Config(run.Config):
    """A code of two numbers."""

    latent: int = 2


class Toy(nn.Module):
    """Encoder with batch norm, decoder, and a critic of noisy codes."""

    shape: tuple[int, ...]
    latent: int

    def setup(self):
        self.encoder = nn.Dense(self.latent, use_bias=False)  # batch norm takes a bias out again
        self.decoder = nn.Dense(self.shape[0] * self.shape[1] * self.shape[2])
        self.critic = nn.Dense(1)
        self.norm = nn.BatchNorm(axis_name=axis(), momentum=0.9)
        self.codes = self.variable("codebook", "codes", jnp.zeros, (self.latent,))

    def __call__(self, x, train=False):
        z = self.norm(self.encoder(x.reshape(len(x), -1)), use_running_average=not train)
        return z, self.decode(z), self.critic(z)[:, 0]

    def judge(self, z):
        return self.critic(z)[:, 0]

    def encode(self, x):
        return self(x)[0]

    def decode(self, z):
        return nn.sigmoid(self.decoder(z)).reshape(-1, *self.shape)


def build(config, info):
    """Reconstruction and a minimax term."""
    model = Toy(info.shape, config.latent)

    def forward(params, extra, batch, train):
        variables = {"params": params, **extra}
        (z, y, score), changed = model.apply(variables, batch.x, train=train, mutable=["batch_stats"])
        error = jnp.sum((y - batch.x) ** 2, axis=(1, 2, 3))
        return z, error, score, dict(changed) if train else {}

    def reconstruct(train):
        def loss(params, extra, batch, key):
            z, error, score, changed = forward(params, extra, batch, train)
            activity = pooled(jnp.abs(z), batch)
            value = mean(error - 0.1 * score, batch) + jnp.sum((activity - 0.5) ** 2)
            codes = 0.9 * extra["codebook"]["codes"] + 0.1 * activity
            return value, (
                {**extra, **changed, "codebook": {"codes": codes}},
                {"loss": value, "mse": mean(error, batch)},
            )

        return loss

    def judge(params, extra, batch, key):
        z = jax.lax.stop_gradient(forward(params, extra, batch, True)[0]) + noise(key, batch, (config.latent,))
        score = model.apply({"params": params, **extra}, z, method="judge")
        value = mean(nn.softplus(score), batch)
        return value, (extra, {"critic": value})

    transition = sequence(
        descend(reconstruct(True), optax.adam(config.lr), wrt=("encoder", "decoder", "norm")),
        descend(judge, optax.sgd(0.1), wrt=("critic",)),
    )
    return run.Experiment(model, transition, reconstruct(False))
