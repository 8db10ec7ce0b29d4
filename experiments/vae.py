"""The reparameterized variational autoencoder with a code of two numbers.

Source: F. Chollet, "Building autoencoders in Keras" (2016), section on the variational autoencoder;
Kingma & Welling 2014.
Command: python -m experiments.vae --data mnist --seeds 3
Measured: negative evidence lower bound 152.2 +- 1.4 nats per image on the test split over three seeds; 5 min for all
on two shared CPU cores. The source gives no figure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxae import likelihood, nets, prob, run
from jaxae.epoch import first_step
from jaxae.errors import InputError
from jaxae.step import Transition, descend, scheduled
from jaxae.types import Loss
from jaxae.variants import iwae, rate, vae


@dataclass(frozen=True)
class Network(run.Config):
    """784-256-2-256-784."""

    hidden: tuple[int, ...] = (256,)
    """Widths of the encoder; the decoder mirrors them."""
    latent: int = 2
    """Size of the code."""
    warmup: float = 0.0
    """Epochs in which the divergence comes to count, from 0 to what it is to count."""
    cycles: int = 1
    """More than 1: it begins again so often in these epochs, and counts in full after the first half of each cycle."""
    likelihood: int = 0
    """Samples for the log-likelihood of the test split, estimated when the run is finished (0: it is not)."""


@dataclass(frozen=True)
class Config(Network):
    """784-256-2-256-784, RMSprop."""

    beta: float = 1.0
    """Weight of the divergence while training; the test loss has it with weight 1."""
    capacity: float = 0.0
    """Nats that the code is to carry: the divergence counts as beta |KL - capacity| (0: it counts itself)."""
    free_bits: float = 0.0
    """Nats that each unit of the code may carry at no cost."""


def network(config: Network, info: run.Info, **options: Any) -> tuple[nets.MLP, nets.MLP]:
    """Encoder and decoder of the model for data of this shape. options: of both nets."""
    return (
        nets.MLP(config.hidden, (2 * config.latent,), axes=len(info.shape), precision=config.precision, **options),
        nets.MLP(config.hidden[::-1], info.shape, precision=config.precision, **options),
    )


def mean(info: run.Info) -> Float[np.ndarray, "*D"]:
    """The mean training image, off 0 and 1, or halves where there is none: a decoder may start from its logit."""
    return np.clip(np.full(info.shape, 0.5) if info.mean is None else info.mean(), 1e-3, 1 - 1e-3)


def warmed(config: Network, info: run.Info, at: Callable[[rate.Weight], Transition]) -> Transition:
    """The transition in which the divergence counts with this share, which grows as the configuration says.

    InputError for fields that do not go together.
    """
    if not config.warmup:
        if config.cycles > 1:
            raise InputError(f"--cycles {config.cycles}: give the epochs that they divide as --warmup")
        return at(1.0)
    steps = first_step(1, info.train, config.batch_size) * config.warmup
    grow = rate.cyclical(steps, config.cycles, rising=0.5 if config.cycles > 1 else 1.0)

    def now(step: Int[Array, ""]) -> Transition:
        return at(grow(step))

    return scheduled(now)


def train(
    config: Config,
    info: run.Info,
    loss: Callable[[rate.Rate], Loss],
    tx: optax.GradientTransformation,
    wrt: Sequence[str] | None = None,
) -> Transition:
    """Descent of a loss whose divergence counts as the configuration says.

    loss: for a way in which it counts. InputError for fields that do not go together.
    """
    if config.capacity and config.free_bits:
        raise InputError("--capacity, --free-bits: take one of the two")

    def at(share: rate.Weight) -> Transition:
        if config.capacity:
            counts = rate.capacity(config.beta, config.capacity * share)
        elif config.free_bits:
            counts = rate.free_bits(config.beta * share, config.free_bits)
        else:
            counts = rate.weighed(config.beta * share)
        return descend(loss(counts), tx, wrt)

    return warmed(config, info, at)


def experiment(
    config: Network,
    model: vae.VAE,
    transition: Transition,
    evaluate: Loss | None = None,
    log_likelihood: vae.Likelihood = prob.bernoulli,
    **more: Any,
) -> run.Experiment:
    """Of a variational model: its test loss (the negative evidence lower bound), its prior, and its log-likelihood.

    InputError where that is none.
    """
    if config.likelihood and log_likelihood is prob.bernoulli and config.binarize == "none":
        raise InputError("--likelihood: grey pixels have none under a Bernoulli: train with --binarize static")
    if config.likelihood == 1:
        raise InputError("--likelihood 1: one sample is the bound itself, whose error is not known: take more")
    samples, of = config.likelihood, iwae.terms(model, log_likelihood)
    fields = {
        "prior": vae.prior(config.latent),
        "measures": {"likelihood": partial(likelihood.measure, of, samples)} if samples else {},
    }
    return run.Experiment(model, transition, evaluate or vae.loss(model, log_likelihood), **{**fields, **more})


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = vae.VAE(*network(config, info))
    loss = partial(vae.loss, model, prob.bernoulli)
    return experiment(config, model, train(config, info, loss, optax.rmsprop(config.lr)))


if __name__ == "__main__":
    run.main(Config, build)
