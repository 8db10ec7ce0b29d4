"""not-MIWAE: MIWAE with a model of missingness, for entries that are missing because of their values.

Group: missing data
Source: Ipsen, Mattei & Frellsen 2021, table 1, and the authors' code: normal likelihood, K = 20, batches of 16,
100,000 steps with learning rate 0.001.
Published: imputation RMSE 1.12 concrete, 1.07 red wine, 0.99 white wine, 0.77 yeast, 0.72 breast, of entries above the
mean of their column that were removed, in standard deviations (Ipsen et al. 2021; see scripts/imputation.py).
Command: jaxae not_miwae --data ../shared/data/tables/wine-red-missing.csv --target quality --seeds 3
"""

from dataclasses import dataclass

import flax.linen as nn

from jaxae import likelihoods, run
from jaxae.core.step import descend
from jaxae.experiments import miwae as plain
from jaxae.run import variational
from jaxae.variants import not_miwae


@dataclass(frozen=True)
class Config(plain.Config):
    """D-128-128-10-128-128-D, tanh, Adam, and a model of which entries are missing."""

    likelihood: likelihoods.Name = "normal-learned"
    """Likelihood p(x|z): normal, laplace or student-t, each also with the suffix -learned or -predicted (see vae). The
    source uses normal-predicted."""
    missingness: not_miwae.Kind = "self-masking"
    """Probability that an entry is missing. self-masking: a logistic function of its value with a learned slope;
    self-masking-high: of positive slope (large values are missing); self-masking-low: of negative slope; linear: of a
    linear function of all entries; agnostic: of a network of all entries."""
    missingness_hidden: int = 128
    """Width of the hidden layer of --missingness agnostic."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = not_miwae.NotMIWAE(
        *variational.dense(config, info, activation=nn.tanh, precision=config.precision),
        missingness=not_miwae.missingness(config.missingness, info.shape, config.missingness_hidden),
    )
    warmup = variational.warmup(config, info)
    return variational.experiment(
        config,
        info,
        model,
        descend(not_miwae.loss(model, config.samples, warmup), run.optimizer(config, info)),
        not_miwae.loss(model, config.samples),
    )


if __name__ == "__main__":
    run.main(Config, build)
