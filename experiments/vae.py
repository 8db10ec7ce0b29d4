"""The reparameterized variational autoencoder with a code of two numbers.

Source: F. Chollet, "Building autoencoders in Keras" (2016), section on the variational autoencoder;
Kingma & Welling 2014.
Command: python -m experiments.vae --data mnist --seeds 3
Measured: negative evidence lower bound 152.2 +- 1.4 nats per image on the test split over three seeds; 5 min for all
on two shared CPU cores. The source gives no figure.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import optax
from jaxtyping import Float

from jaxae import likelihood, likelihoods, nets, run
from jaxae.core.batch import Loss, Weight
from jaxae.core.step import Transition, descend
from jaxae.training.epoch import first_step
from jaxae.variants import iwae, rate, vae


@dataclass(frozen=True)
class Network(run.Config):
    """784-256-2-256-784."""

    hidden: tuple[int, ...] = (256,)
    """Widths of the encoder; the decoder mirrors them."""
    latent: int = 2
    """Latent dimensions."""
    likelihood: likelihoods.Name = "auto"
    """p(x|z). auto: Bernoulli. normal: of --likelihood-scale; normal-learned: one learned scale; normal-predicted: a
    scale per pixel from the decoder."""
    likelihood_scale: float = 1.0
    """Standard deviation of --likelihood normal, pixels in [0, 1]."""
    kl_warmup: float = 0.0
    """KL warm-up in epochs: the KL weight rises linearly from 0."""
    kl_cycles: int = 1
    """Cycles of KL warm-up within these epochs; with more than 1 the weight rises in the first half of each."""
    log_likelihood_samples: int = 0
    """Importance samples per image for the log-likelihood of the test split, estimated after training (0: none)."""


@dataclass(frozen=True)
class Config(Network):
    """784-256-2-256-784, RMSprop."""

    kl_weight: float = 1.0
    """Weight of the KL term in training (beta); the test loss has weight 1."""
    capacity: float = 0.0
    """Target of the KL term in nats: it enters as kl_weight * |KL - capacity| (0: without a target)."""
    free_bits: float = 0.0
    """Nats of KL that each latent dimension may have at no cost."""


def of_config(config: Network) -> likelihoods.Likelihood:
    """The likelihood that the configuration names."""
    return likelihoods.named(config.likelihood, config.likelihood_scale)


def network(config: Network, info: run.Info, last_bias: tuple[float, ...] = (), **options: Any) -> dict[str, Any]:
    """Encoder, decoder and likelihood of a `VAE` for data of this shape.

    last_bias: what the last bias of the decoder starts from (default: 0). options: of both nets.
    """
    likelihood = of_config(config)
    options = {"precision": config.precision, **options}
    encoder = nets.MLP(config.hidden, (2 * config.latent,), axes=len(info.shape), **options)
    decoder = nets.MLP(config.hidden[::-1], likelihood.parameters(info.shape), last_bias=last_bias, **options)
    return {"encoder": encoder, "decoder": likelihood.decoder(decoder), "likelihood": likelihood}


def mean(info: run.Info) -> Float[np.ndarray, "*D"]:
    """The mean training image, off 0 and 1, or halves where there is none: a decoder may start from it."""
    return np.clip(np.full(info.shape, 0.5) if info.mean is None else info.mean(), 1e-3, 1 - 1e-3)


def kl_schedule(config: Network, info: run.Info) -> Weight:
    """The factor of the KL weight at each training step: KL warm-up, or 1 throughout.

    ValueError for fields that do not fit together.
    """
    if not config.kl_warmup:
        if config.kl_cycles > 1:
            raise ValueError(f"kl_cycles={config.kl_cycles}: give the epochs that they divide as kl_warmup=EPOCHS")
        return 1.0
    steps = first_step(1, info.train, config.batch_size) * config.kl_warmup
    return rate.cyclical(steps, config.kl_cycles, rising=0.5 if config.kl_cycles > 1 else 1.0)


def kl_rate(config: Config, info: run.Info) -> rate.Rate:
    """How the KL term enters the loss. ValueError for fields that do not fit together."""
    warmup = kl_schedule(config, info)
    if config.capacity and config.free_bits:
        raise ValueError(f"capacity={config.capacity}, free_bits={config.free_bits}: choose one of the two")
    if config.capacity:
        return rate.capacity(config.kl_weight, rate.scaled(config.capacity, warmup))
    weight = rate.scaled(config.kl_weight, warmup)
    return rate.free_bits(weight, config.free_bits) if config.free_bits else rate.weighed(weight)


def experiment(
    config: Network, model: vae.VAE, train: Transition, evaluate: Loss | None = None, **more: Any
) -> run.Experiment:
    """Of a variational model: its test loss (the negative evidence lower bound), its prior, and its log-likelihood.

    ValueError where that is none.
    """
    samples = config.log_likelihood_samples
    if samples and model.likelihood.discrete and config.binarize == "none":
        raise ValueError(
            f"log_likelihood_samples={samples}: grey pixels have no density under a Bernoulli: train with "
            "binarize=static"
        )
    if samples == 1:
        raise ValueError("log_likelihood_samples=1: one sample is the bound itself, whose error is unknown: take more")
    measures = {"likelihood": partial(likelihood.measure, iwae.densities(model), samples)} if samples else {}
    fields = {"prior": vae.prior(config.latent), "measures": measures}
    return run.Experiment(model, train, evaluate or vae.loss(model), **{**fields, **more})


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = vae.VAE(**network(config, info))
    loss = vae.loss(model, kl_rate(config, info))
    return experiment(config, model, descend(loss, optax.rmsprop(config.lr)))


if __name__ == "__main__":
    run.main(Config, build)
