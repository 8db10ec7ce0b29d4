"""The fields that all variational experiments share."""

from dataclasses import dataclass

from jaxae import likelihoods


@dataclass(frozen=True)
class Fields:
    """Network, likelihood and KL warm-up. For `class Config(variational.Fields, run.Config)`."""

    hidden: tuple[int, ...] = (256,)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 2
    """Number of latent dimensions."""
    likelihood: likelihoods.Name = "auto"
    """Likelihood p(x|z). auto: bernoulli for pixels, normal-learned for real numbers. normal: standard deviation
    --likelihood-scale. normal-learned: one learned standard deviation. normal-predicted: one per dimension, from the
    decoder."""
    likelihood_scale: float = 1.0
    """Standard deviation of --likelihood normal, for pixels in [0, 1] or standardized numbers."""
    kl_warmup: float = 0.0
    """Epochs of KL warm-up, in which the KL weight (or --capacity; all weights of tcvae) rises linearly from 0 (0:
    none)."""
    kl_cycles: int = 1
    """Cycles of KL warm-up within --kl-warmup; with more than 1, the weight rises in the first half of each cycle."""
    log_likelihood_samples: int = 0
    """Importance samples per example for the log-likelihood of the test split, estimated after training (0: none)."""
