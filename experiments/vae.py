"""The reparameterized variational autoencoder with a code of two numbers.

Source: F. Chollet, "Building autoencoders in Keras" (2016), section on the variational autoencoder;
Kingma & Welling 2014.
Command: jaxae vae --data mnist --seeds 3
Measured: negative evidence lower bound 152.2 +- 1.4 nats per image on the test split over three seeds; 5 min for all
on two shared CPU cores. The source gives no figure.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxae import likelihoods, nets, run
from jaxae.core import kl_term
from jaxae.core.batch import Loss, Weight
from jaxae.core.step import Transition, descend
from jaxae.measure import likelihood
from jaxae.training import optimizers
from jaxae.training.epoch import first_step
from jaxae.variants import iwae, vae


@dataclass(frozen=True)
class Network(run.Config):
    """784-256-2-256-784."""

    hidden: tuple[int, ...] = (256,)
    """Widths of the encoder; the decoder mirrors them."""
    latent: int = 2
    """Latent dimensions."""
    likelihood: likelihoods.Name = "auto"
    """p(x|z). auto: bernoulli. normal: the fixed --likelihood-scale. normal-learned: one learned scale.
    normal-predicted: a scale per pixel from the decoder."""
    likelihood_scale: float = 1.0
    """Standard deviation of --likelihood normal, for pixels in [0, 1]."""
    kl_warmup: float = 0.0
    """Epochs of KL warm-up, in which the KL weight (or --capacity; all weights of tcvae and infovae) rises linearly
    from 0 (0: none)."""
    kl_cycles: int = 1
    """Cycles within --kl-warmup; with more than 1, the weight rises in the first half of each cycle."""
    log_likelihood_samples: int = 0
    """Importance samples per image for the log-likelihood of the test split, estimated after training (0: none)."""


@dataclass(frozen=True)
class Config(Network):
    """784-256-2-256-784, RMSprop."""

    optimizer: optimizers.Name = "rmsprop"
    kl_weight: float = 1.0
    """Weight of the KL term in training (beta); the test loss has weight 1."""
    capacity: float = 0.0
    """Target of the KL term in nats: the loss has kl_weight * |KL - capacity| (0: no target)."""
    free_bits: float = 0.0
    """Nats of KL per latent dimension without penalty (0: none)."""


def of_config(config: Network) -> likelihoods.Likelihood:
    """The likelihood that the configuration names. ValueError for a scale that it does not take."""
    scale = config.likelihood_scale
    if config.likelihood == "normal" and scale <= 0:
        raise ValueError(f"likelihood_scale={scale} must be positive")
    if config.likelihood != "normal" and scale != Network.likelihood_scale:
        raise ValueError(f"likelihood_scale={scale} is for likelihood=normal: leave it out")
    return likelihoods.named(config.likelihood, config.likelihood_scale)


def network(config: Network, info: run.Info, last_bias: tuple[float, ...] = (), **options: Any) -> dict[str, Any]:
    """Encoder, decoder and likelihood of a `VAE` for data of this shape.

    last_bias: initial bias of the decoder's last layer (default: 0). options: arguments of both nets.
    """
    p = of_config(config)
    options = {"precision": config.precision, **options}
    encoder = nets.MLP(config.hidden, (2 * config.latent,), axes=len(info.shape), **options)
    decoder = nets.MLP(config.hidden[::-1], p.parameters(info.shape), last_bias=last_bias, **options)
    return {"encoder": encoder, "decoder": p.decoder(decoder), "likelihood": p}


def mean(info: run.Info) -> Float[np.ndarray, "*D"]:
    """The mean training image, clipped away from 0 and 1, to initialise a decoder; 0.5 if unknown."""
    return np.clip(np.full(info.shape, 0.5) if info.mean is None else info.mean(), 1e-3, 1 - 1e-3)


def kl_schedule(config: Network, info: run.Info) -> Weight:
    """The KL warm-up, a factor of the KL weight at each training step; 1 without warm-up.

    ValueError for kl_cycles without kl_warmup.
    """
    if not config.kl_warmup:
        if config.kl_cycles > 1:
            raise ValueError(f"kl_cycles={config.kl_cycles} needs a KL warm-up; set kl_warmup=EPOCHS")
        return 1.0
    steps = first_step(1, info.train, config.batch_size) * config.kl_warmup
    return kl_term.cyclical(steps, config.kl_cycles, rising=0.5 if config.kl_cycles > 1 else 1.0)


def kl_rate(config: Config, info: run.Info) -> kl_term.Rate:
    """The KL term of the loss. ValueError for capacity with free_bits, and for kl_cycles without kl_warmup."""
    warmup = kl_schedule(config, info)
    if config.capacity and config.free_bits:
        raise ValueError(f"capacity={config.capacity}, free_bits={config.free_bits}: choose one of the two")
    if config.capacity:
        return kl_term.capacity(config.kl_weight, kl_term.scaled(config.capacity, warmup))
    weight = kl_term.scaled(config.kl_weight, warmup)
    return kl_term.free_bits(weight, config.free_bits) if config.free_bits else kl_term.weighed(weight)


def experiment(
    config: Network, model: vae.VAE, train: Transition, evaluate: Loss | None = None, **more: Any
) -> run.Experiment:
    """An experiment with test loss (negative evidence lower bound), prior and log-likelihood of a variational model.

    ValueError if the log-likelihood cannot be estimated.
    """
    samples = config.log_likelihood_samples
    if samples and model.likelihood.discrete and config.binarize == "none":
        raise ValueError(
            f"log_likelihood_samples={samples}: grey pixels have no density under a Bernoulli: train with "
            "binarize=static"
        )
    if samples == 1:
        raise ValueError("log_likelihood_samples=1: one sample is the bound itself, of unknown error; use at least 2")
    measures = {"likelihood": partial(likelihood.measure, iwae.densities(model), samples)} if samples else {}
    fields = {"prior": vae.prior(config.latent), "measures": measures}
    return run.Experiment(model, train, evaluate or vae.loss(model), **{**fields, **more})


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = vae.VAE(**network(config, info))
    loss = vae.loss(model, kl_rate(config, info))
    return experiment(config, model, descend(loss, run.optimizer(config, info)))


if __name__ == "__main__":
    run.main(Config, build)
