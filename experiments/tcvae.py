"""beta-TCVAE: of the divergence only the total correlation weighs more.

Source: Chen, Li, Grosse & Duvenaud 2018, beta = 6 on dSprites.
Command: python -m experiments.tcvae --data sprites --seeds 3
Measured: see experiments/README.md.
"""

from dataclasses import dataclass

import optax

from experiments import vae as plain
from jaxae import run
from jaxae.step import descend
from jaxae.variants import tcvae, vae


@dataclass(frozen=True)
class Config(plain.Network):
    """1024-512-256-10-256-512-1024, Adam."""

    epochs: int = 30
    batch_size: int = 128
    hidden: tuple[int, ...] = (512, 256)
    """Widths of the encoder; the decoder mirrors them."""
    latent: int = 10
    """Size of the code."""
    beta: float = 6.0
    """Weight of the total correlation."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = vae.VAE(*plain.network(config, info))
    loss = tcvae.loss(model, info.train, config.beta)
    return plain.experiment(config, model, descend(loss, optax.adam(config.lr)))


if __name__ == "__main__":
    run.main(Config, build)
