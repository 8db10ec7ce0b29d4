"""GECO: a variational autoencoder whose reconstruction error has a tolerance, in place of a KL weight.

Group: variational
Source: Rezende & Viola 2018. The tolerance is for -log p(x|z), not for a squared error; the excess is relative to it.
Published: no result for this network (Rezende & Viola 2018).
Command: jaxae geco --data mnist --seeds 3
"""

from dataclasses import dataclass

from jaxae import run
from jaxae.core.step import descend
from jaxae.run import variational
from jaxae.variants import geco, vae


@dataclass(frozen=True)
class Config(variational.Fields, run.Config):
    """784-500-20-500-784, Adam."""

    epochs: int = 20
    batch_size: int = 128
    hidden: tuple[int, ...] = (500,)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 20
    """Number of latent dimensions."""
    tolerance: float = 80.0
    """Tolerance of the reconstruction error -log p(x|z), nats per example."""
    multiplier_rate: float = 0.01
    """Relative growth of the multiplier per step, if the error is twice its tolerance."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape. ValueError for a tolerance that is not positive, and for a KL warm-up."""
    if config.tolerance <= 0:
        raise ValueError(f"tolerance={config.tolerance:g} must be positive")
    for name, plain in (("kl_warmup", 0), ("kl_cycles", 1)):
        if (value := getattr(config, name)) != plain:
            raise ValueError(f"{name}={value:g} has no effect: the multiplier weights the error; omit it")
    model = geco.GECO(*variational.dense(config, info, precision=config.precision))
    loss = geco.loss(model, config.tolerance, config.multiplier_rate)
    return variational.experiment(config, info, model, descend(loss, run.optimizer(config, info)), vae.loss(model))


if __name__ == "__main__":
    run.main(Config, build)
