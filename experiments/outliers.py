"""A variational autoencoder for outliers in tables: a heavy-tailed likelihood, and an ensemble over columns and seeds.

Group: anomalies
Source: Kingma & Welling 2014, with a Student-t likelihood, which outliers among the training rows do not dominate. The
encoder of each seed sees a random half of the columns, fixed at initialisation, and the decoder reconstructs all of
them: feature bagging (Lazarevic & Kumar 2005), and as in RandNet (Chen, Sathe, Aggarwal & Turaga 2017) the seeds are an
ensemble. The score is the negative ELBO, averaged over samples (`jaxae score RUN DATA --ensemble mean`).
Published: no result for these sets.
Command: jaxae outliers --data digits --seeds 8
"""

from dataclasses import dataclass

from jaxae import likelihoods, nets, run
from jaxae.core import kl_term
from jaxae.core.step import descend
from jaxae.run import variational
from jaxae.variants import vae


@dataclass(frozen=True)
class Config(variational.Fields, run.Config):
    """D-64-2-64-D, Student-t, Adam."""

    epochs: int = 40
    batch_size: int = 128
    hidden: tuple[int, ...] = (64,)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    likelihood: likelihoods.Name = "student-t-predicted"
    columns: float = 0.5
    """Fraction of the columns that the encoder of each seed sees, above 0 and at most 1."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    if not 0 < config.columns <= 1:
        raise ValueError(f"columns={config.columns} must be above 0 and at most 1")
    encoder, decoder, likelihood = variational.dense(config, info, precision=config.precision)
    model = vae.VAE(nets.Subset(encoder, config.columns), decoder, likelihood)
    warmup = variational.warmup(config, info)
    return variational.experiment(
        config,
        info,
        model,
        descend(vae.loss(model, kl_term.weighted(warmup)), run.optimizer(config, info)),
        vae.loss(model),
    )


if __name__ == "__main__":
    run.main(Config, build)
