"""MIWAE: an importance weighted autoencoder for tables with missing entries, and their imputation.

Group: missing data
Source: Mattei & Frellsen 2019, with the network of Ipsen, Mattei & Frellsen 2021 in the authors' code: two hidden
layers of 128, tanh, K = 20, Adam, batches of 16.
Published: no result for this table (Mattei & Frellsen 2019).
Command: jaxae miwae --data ../shared/data/tables/wine-red-missing.csv --target quality --seeds 3
"""

from dataclasses import dataclass, replace

import flax.linen as nn

from jaxae import likelihoods, run
from jaxae.core.step import descend
from jaxae.run import variational
from jaxae.variants import iwae, vae


@dataclass(frozen=True)
class Config(variational.Fields, run.Config):
    """D-128-128-10-128-128-D, tanh, Adam. Missing entries are empty cells or NaN; `jaxae impute` fills them in."""

    epochs: int = 200
    batch_size: int = 16
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 10
    """Number of latent dimensions."""
    likelihood: likelihoods.Name = "auto"
    """Likelihood p(x|z), as in vae. auto: student-t-predicted for real numbers, bernoulli for pixels, negative-binomial
    for counts."""
    samples: int = 20
    """Number K of importance samples in the loss."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    if config.likelihood == "auto" and info.real and not info.counts:
        config = replace(config, likelihood="student-t-predicted")
    model = vae.VAE(*variational.dense(config, info, activation=nn.tanh, precision=config.precision))
    warmup = variational.warmup(config, info)
    return variational.experiment(
        config,
        info,
        model,
        descend(iwae.loss(model, config.samples, kl_weight=warmup), run.optimizer(config, info)),
        iwae.loss(model, config.samples),
    )


if __name__ == "__main__":
    run.main(Config, build)
