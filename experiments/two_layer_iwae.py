"""The importance weighted autoencoder with two layers of latent variables.

Group: variational
Source: Burda, Grosse & Salakhutdinov 2016, table 1, two stochastic layers, K = 1 (-85.33), 5 and 50 (-82.90), after
3,280 epochs in eight stages; the 364 epochs here are the first six of them.
Published: log-likelihood with 5,000 samples -83.89 nats with K = 5 after 3,280 epochs (Burda et al. 2016).
Command: jaxae two_layer_iwae --data mnist --samples 5 --log-likelihood-samples 5000
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import flax.linen as nn

from jaxae import likelihoods, nets, run
from jaxae.experiments import iwae
from jaxae.variants import hierarchy, vae
from jaxae.variants.iwae import loss


@dataclass(frozen=True)
class Config(iwae.Config):
    """784-200-200-100 and 100-100-100-50, and back, tanh, otherwise as in `iwae`."""

    latent: tuple[int, ...] = (100, 50)  # type: ignore[assignment]
    """Number of latent dimensions of each layer, from the one nearest to the data."""
    upper_hidden: tuple[int, ...] = (100, 100)
    """Widths of the hidden layers between two latent layers in the encoder; the decoder mirrors them."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape; the decoder's output bias starts from the mean training image."""
    options: dict[str, Any] = {"activation": nn.tanh, "precision": config.precision}
    named = likelihoods.named(config.likelihood, config.likelihood_scale, info)
    encoder, decoder, likelihood = vae.dense(
        info.shape, config.hidden, config.latent[0], named, mean=info.initial_mean(), **options
    )
    pairs = [*pairwise(config.latent)]
    model = hierarchy.BottomUp(
        encoder=encoder,
        decoder=decoder,
        likelihood=likelihood,
        latent=config.latent,
        ups=tuple(nets.MLP(config.upper_hidden, (2 * above,), **options) for _, above in pairs),
        downs=tuple(nets.MLP(config.upper_hidden[::-1], (2 * below,), **options) for below, _ in pairs),
    )
    evaluate = hierarchy.with_layers(model, loss(model, config.samples))
    return iwae.experiment(config, info, model, evaluate, hierarchy.prior(model))


if __name__ == "__main__":
    run.main(Config, build)
