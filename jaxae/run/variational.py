"""The fields that variational experiments share, and the experiment of their model and losses."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import optax

from jaxae import likelihoods
from jaxae.core import kl_term
from jaxae.core.batch import Loss, Weight
from jaxae.core.experiment import Experiment, Prior
from jaxae.core.step import Transition, descend
from jaxae.core.types import Info
from jaxae.likelihoods import Likelihood
from jaxae.measure.likelihood import measures
from jaxae.variants import hierarchy, top_down, vae


@dataclass(frozen=True)
class Common:
    """Latent dimensions, likelihood and KL warm-up. For `class Config(variational.Common, run.Config)`."""

    latent: int = 2
    """Number of latent dimensions."""
    likelihood: likelihoods.Name = "auto"
    """Likelihood p(x|z). auto: bernoulli for pixels, normal-learned for real numbers, negative-binomial for counts.
    Pixels: bernoulli, binary; continuous-bernoulli, grey; logistic-mixture of 5 and categorical, 256 grey levels.
    Pixels and real numbers: normal, and with heavier tails laplace and student-t (5 degrees of freedom), with scale
    --likelihood-scale; -learned: one learned scale; -predicted: one per dimension, from the decoder, as are degrees of
    freedom. Counts: poisson; negative-binomial, with a learned dispersion per column, and
    zero-inflated-negative-binomial."""
    likelihood_scale: float = 1.0
    """Scale of --likelihood normal (the standard deviation), laplace and student-t, for pixels in [0, 1] or
    standardized numbers."""
    kl_warmup: float = 0.0
    """Epochs of KL warm-up, in which the KL weight (or --capacity; all weights of tcvae and dip_vae) rises linearly
    from 0 (0: none)."""
    kl_cycles: int = 1
    """Cycles of KL warm-up within --kl-warmup; with more than 1, the weight rises in the first half of each cycle."""
    log_likelihood_samples: int = 0
    """Importance samples per example for the log-likelihood of the test split, estimated after training (0: none)."""


@dataclass(frozen=True)
class Fields(Common):
    """`Common`, with the widths of dense networks."""

    hidden: tuple[int, ...] = (256,)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""


@dataclass(frozen=True)
class FreeBits(Common):
    """`Common`, with free bits, for `layered`."""

    free_bits: float = 0.0
    """Free bits: nats of KL per latent layer that are not penalised (0: none)."""


@dataclass(frozen=True)
class Layered(FreeBits, Fields):
    """`FreeBits`, with dense networks and several latent layers."""

    latent: tuple[int, ...] = (2, 2)  # type: ignore[assignment]
    """Number of latent dimensions of each layer, starting with the one nearest to the data."""


def dense(config: Fields, info: Info, **options: Any) -> tuple[nn.Module, nn.Module, Likelihood]:
    """Encoder, decoder and likelihood of a `vae.VAE`, with the arguments `options` of `vae.dense`.

    The decoder of counts starts at the mean of the training examples.
    """
    likelihood = likelihoods.named(config.likelihood, config.likelihood_scale, info)
    given = {"hidden": config.hidden, "mean": info.initial_mean() if info.counts else None, **options}
    return vae.dense(info.shape, latent=config.latent, likelihood=likelihood, **given)


def likelihood(config: Common, info: Info) -> tuple[Likelihood, tuple[float, ...]]:
    """The likelihood, and the initial bias of the decoder for the mean training example."""
    found = likelihoods.named(config.likelihood, config.likelihood_scale, info)
    return found, tuple(found.initial(info.initial_mean()).ravel().tolist())


def colour(likelihood: Likelihood, info: Info) -> tuple[float, ...]:
    """The initial bias of a convolutional decoder for the mean colour of the training images."""
    return tuple(likelihood.initial(info.initial_mean().mean((0, 1))).tolist())


def warmup(config: Any, info: Info) -> Weight:
    """The factor of KL warm-up. config: an experiment's, with `Common`."""
    return kl_term.warmup(config.kl_warmup, config.kl_cycles, info.train, config.batch_size)


def rate(config: Any, info: Info) -> kl_term.Rate:
    """The KL term of the loss. config: a `vae.Config`, with weight, warm-up, capacity and free bits."""
    return kl_term.rate(
        config.kl_weight,
        warmup(config, info),
        target=config.capacity,
        of=config.capacity_of,
        free=config.free_bits,
    )


def experiment(
    config: Any,
    info: Info,
    model: vae.VAE,
    train: Transition,
    evaluate: Loss,
    *,
    prior: Prior | None = None,
    conditional: bool = False,
) -> Experiment:
    """The experiment of a variational model whose losses mask missing entries, with the likelihood as a measure.

    config: an experiment's, with `Common`. prior: default N(0, I).
    """
    return Experiment(
        model,
        train,
        evaluate,
        prior or vae.prior(config.latent),
        missing=True,
        counts=info.counts,
        conditional=conditional,
        measures=measures(model, config.log_likelihood_samples, config.binarize),
    )


def layered(config: Any, info: Info, model: top_down.TopDown, optimizer: optax.GradientTransformation) -> Experiment:
    """The experiment of a hierarchy that is trained on the evidence lower bound, with free bits per layer.

    config: an experiment's, with `FreeBits`.
    """
    rate = kl_term.rate(1.0, warmup(config, info), free=config.free_bits)
    train = descend(top_down.loss(model, rate), optimizer)
    return experiment(config, info, model, train, top_down.loss(model), prior=hierarchy.prior(model))
