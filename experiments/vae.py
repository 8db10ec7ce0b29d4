"""A variational autoencoder with a 2-D latent space.

Group: variational
Source: F. Chollet, "Building autoencoders in Keras" (2016), section on the variational autoencoder;
Kingma & Welling 2014.
Published: no result (Chollet 2016).
Command: jaxae vae --data mnist --seeds 3
Measured: negative evidence lower bound 152.2 +- 1.4 nats over three seeds; 5 min in total on two shared CPU cores.
"""

from dataclasses import dataclass

from jaxae import run
from jaxae.core import kl_term
from jaxae.core.step import descend
from jaxae.run import variational
from jaxae.training import optimizers
from jaxae.variants import vae


@dataclass(frozen=True)
class Config(variational.Fields, run.Config):
    """784-256-2-256-784, RMSprop with epsilon inside the root, as in Optax (Keras adds it outside)."""

    optimizer: optimizers.Name = "rmsprop"
    kl_weight: float = 1.0
    """Weight of the KL term in training (beta); the test loss has weight 1."""
    capacity: float = 0.0
    """Target of the KL term in nats: the loss has --kl-weight times |KL - capacity| (0: no target)."""
    capacity_of: kl_term.CapacityOf = "example"
    """KL in --capacity: of each example, or the batch mean (disentanglement_lib; without microbatches only)."""
    free_bits: float = 0.0
    """Free bits: nats of KL per latent dimension that are not penalised (0: none)."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = vae.VAE(*variational.dense(config, info, precision=config.precision))
    rate = variational.rate(config, info)
    return variational.experiment(
        config, info, model, descend(vae.loss(model, rate), run.optimizer(config, info)), vae.loss(model)
    )


if __name__ == "__main__":
    run.main(Config, build)
