"""The sliced-Wasserstein autoencoder: sorted projections match the aggregate posterior to the prior.

Group: adversarial and MMD
Source: Kolouri, Pope, Martin & Rohde 2019, with the network of `wae` and N(0, I) in place of their uniform prior on a
disc.
Published: no result for this network (Kolouri et al. 2019).
Command: jaxae swae --data mnist --seeds 3
"""

from dataclasses import dataclass

from jaxae import run
from jaxae.core.step import descend
from jaxae.variants import autoencoder, swae, vae


@dataclass(frozen=True)
class Config(run.Config):
    """784-500-8-500-784, ReLU with a linear code, squared error, Adam."""

    epochs: int = 20
    hidden: tuple[int, ...] = (500,)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 8
    """Number of latent dimensions."""
    directions: int = 50
    """Number of random directions in each step."""
    distance_weight: float = 100.0
    """Weight of the squared sliced-Wasserstein distance, relative to the squared error summed over pixels."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = autoencoder.Autoencoder(
        *autoencoder.dense(info.shape, config.hidden, config.latent, precision=config.precision),
        output=autoencoder.output(info),
    )
    loss = swae.loss(model, config.distance_weight, config.directions)
    return run.Experiment(
        model,
        descend(loss, run.optimizer(config, info)),
        autoencoder.loss(model, "mse"),
        vae.prior(config.latent),
        unit="per {value}",
    )


if __name__ == "__main__":
    run.main(Config, build)
