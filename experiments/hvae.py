"""The hierarchical variational autoencoder with two layers of latent variables.

Group: variational
Source: Tomczak & Welling 2018, the two-level model, with a standard normal prior of the upper layer: gated layers of
width 300, 40 latent dimensions in each layer, static binary MNIST. Initial weights, optimizer and KL warm-up are those
of `vampprior`. In place of a first layer for each input, the posterior of z_1 concatenates the features of x with z_2,
and the decoder z_1 with z_2.
Published: no result for this network (Tomczak & Welling 2018).
Command: jaxae hvae --data mnist --valid 10000 --keep best --stop-after 50 --log-likelihood-samples 5000
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import optax

from jaxae import run
from jaxae.run import variational
from jaxae.training import optimizers
from jaxae.variants import hvae


@dataclass(frozen=True)
class Config(variational.Layered, run.Config):
    """784-300-300-40 for each layer, gated layers, Adam on normalized gradients, static binarization."""

    binarize: Literal["none", "static", "dynamic"] = "static"
    epochs: int = 2000
    batch_size: int = 100
    lr: float = 5e-4
    hidden: tuple[int, ...] = (300, 300)
    """Widths of the hidden layers of encoder and prior; the decoder mirrors them."""
    latent: tuple[int, ...] = (40, 40)  # type: ignore[assignment]
    kl_warmup: float = 100.0


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = hvae.dense(
        info.shape,
        tuple(2 * width for width in config.hidden),  # jax.nn.glu halves the width: half the outputs are gates
        config.latent,
        *variational.likelihood(config, info),
        activation=nn.glu,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
        precision=config.precision,
    )
    optimizer = optax.chain(optimizers.normalized(), run.optimizer(config, info))
    return variational.layered(config, info, model, optimizer)


if __name__ == "__main__":
    run.main(Config, build)
