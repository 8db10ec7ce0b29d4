"""scVI: gene counts of single cells; codes are independent of the batch, which the decoder receives.

Group: single cells
Source: Lopez, Regier, Cole, Jordan & Yosef 2018; one hidden layer of 128, 10 latent dimensions and batches of 128 as in
scvi-tools, without its batch norm and dropout; the output layer also receives the batch.
Published: no result for these cells (Lopez et al. 2018).
Command: jaxae scvi --data simulated_cells --seeds 3 --log-likelihood-samples 100
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from jaxae import likelihoods, run
from jaxae.core.step import descend
from jaxae.experiments import vae as plain
from jaxae.measure import integration
from jaxae.run import variational
from jaxae.training import optimizers
from jaxae.variants import cvae, scvi, vae


@dataclass(frozen=True)
class Config(plain.Config):
    """G-128-10-128-G, Adam. Counts are `--kind counts` or `.h5ad`, the batch is `--context batch`."""

    optimizer: optimizers.Name = "adam"
    epochs: int = 30
    batch_size: int = 128
    latent: int = 10
    hidden: tuple[int, ...] = (128,)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    likelihood: likelihoods.Name = "auto"
    """Likelihood p(x|z): negative-binomial (auto) or zero-inflated-negative-binomial."""
    library: scvi.Library = "observed"
    """Library size of a cell. observed: its total count; the log-likelihood is then conditional on the total. latent:
    its logarithm is the last dimension of the code, with a normal prior whose moments are those of the log totals of
    the batch."""
    dispersion: scvi.Dispersion = "gene"
    """Inverse dispersion: one for each gene, or one for each gene in each batch."""
    encode_context: bool = False
    """Whether the encoder receives the covariates, as the decoder does."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape. ValueError for other data than counts, and other likelihoods."""
    if not info.counts or len(info.shape) != 1:
        raise ValueError("scvi is for counts; read them with kind=counts, from a table, an array [N, D] or .h5ad")
    named = likelihoods.named(config.likelihood, config.likelihood_scale, info)
    if not isinstance(named, likelihoods.NegativeBinomial):
        raise ValueError(
            f"likelihood={config.likelihood} has no dispersion; use negative-binomial or "
            "zero-inflated-negative-binomial"
        )
    share = info.initial_mean() / info.initial_mean().sum()
    latent_library = config.library == "latent"
    likelihood = replace(named, total=None if latent_library else info.total, shared=config.dispersion == "gene")
    of: dict[str, Any] = {"latent": config.latent, "library": config.library, "precision": config.precision}
    model = scvi.SCVI(
        scvi.Encoder(info.shape[0], config.hidden, covariates=config.encode_context, **of),
        scvi.Decoder(
            tuple(np.log(share).tolist()),
            config.hidden[::-1],
            total=info.total or 1.0,
            dispersion=config.dispersion,
            inflated=isinstance(named, likelihoods.ZeroInflatedNegativeBinomial),
            **of,
        ),
        likelihood,
        classes=0 if info.context else None,
        prior=scvi.Prior(config.latent, moments(info)) if latent_library else None,
        library=config.library,
    )
    rate = variational.rate(config, info)
    built = variational.experiment(
        config,
        info,
        model,
        descend(vae.loss(model, rate), run.optimizer(config, info)),
        vae.loss(model),
        prior=cvae.prior(model, config.latent + latent_library),
        conditional=info.context > 0,
    )
    labels = info.classes > 1 or info.context > 0
    measures = {"integration": partial(integration.measure, latent=config.latent)} if labels else {}
    return replace(built, classes="unused", measures={**built.measures, **measures})


def moments(info: run.Info) -> tuple[tuple[float, ...], ...]:
    """Moments of the log totals of the training cells; zeros for a loaded model, which has saved its own."""
    if info.log_totals is None:
        return ((0.0,) * (1 + info.context),) * 2
    return tuple(tuple(row) for row in scvi.library_moments(*info.log_totals()).tolist())


if __name__ == "__main__":
    run.main(Config, build)
