"""FactorVAE: a penalty on the total correlation of the latent code, estimated by a discriminator.

Group: disentangled
Source: Kim & Mnih 2018, gamma = 35 on dSprites.
Published: no result for these sprites (Kim & Mnih 2018).
Command: jaxae factor_vae --data sprites --seeds 3
Measured: negative evidence lower bound 42.69 +- 0.35 nats, MIG 0.1447 +- 0.031, DCI 0.3318 +- 0.037 over three seeds; 7
min in total on two shared CPU cores.
"""

from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import optax

from jaxae import nets, run
from jaxae.core.step import alternate, descend
from jaxae.experiments import vae as plain
from jaxae.run import variational
from jaxae.training import optimizers
from jaxae.variants import factor_vae, vae


@dataclass(frozen=True)
class Config(plain.Config):
    """1024-512-256-10-256-512-1024, a discriminator with three layers of width 256, Adam for both."""

    optimizer: optimizers.Name = "adam"
    epochs: int = 30
    batch_size: int = 128
    hidden: tuple[int, ...] = (512, 256)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 10
    """Number of latent dimensions."""
    kl_weight: float = 1.0
    """Weight of the KL term in training; the test loss has weight 1."""
    gamma: float = 35.0
    """Weight of the total correlation."""
    discriminator: tuple[int, ...] = (256, 256, 256)
    """Widths of the discriminator's hidden layers."""
    discriminator_lr: float = 1e-4
    """Constant learning rate of the discriminator."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    leaky = partial(nn.leaky_relu, negative_slope=0.2)
    model = factor_vae.FactorVAE(
        *variational.dense(config, info, precision=config.precision),
        discriminator=nets.MLP(config.discriminator, (1,), activation=leaky, precision=config.precision),
    )
    rate = variational.rate(config, info)
    loss = factor_vae.loss(model, config.gamma, rate)
    adversary = optax.adam(config.discriminator_lr, b1=0.5)
    train = alternate(
        descend(loss, run.optimizer(config, info), wrt=("encoder", "decoder")),
        descend(factor_vae.discriminator_loss(model), adversary, wrt=("discriminator",), name="discriminator"),
    )
    return variational.experiment(config, info, model, train, vae.loss(model))


if __name__ == "__main__":
    run.main(Config, build)
