"""A regularized autoencoder: deterministic, with small codes and a smooth decoder; samples are from a fitted mixture.

Group: regularized
Source: Ghosh, Sajjadi, Vergari, Black & Schoelkopf 2020, with 16 latent dimensions on MNIST. Their networks are
convolutional, and no weights of the terms are published for dense ones.
Published: Frechet distance in Inception features of samples from a mixture 8.69 (RAE-L2), of a plain autoencoder 10.66,
of a VAE 17.66 (Ghosh et al. 2020, table 1); not comparable with other features.
Command: jaxae rae --data mnist --seeds 3
"""

from dataclasses import dataclass
from typing import Literal

from jaxae import run
from jaxae.core.step import descend
from jaxae.variants import autoencoder, constraints, rae


@dataclass(frozen=True)
class Config(run.Config):
    """784-500-16-500-784, ReLU with a linear code, squared error, Adam."""

    epochs: int = 20
    hidden: tuple[int, ...] = (500,)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 16
    """Number of latent dimensions."""
    code_weight: float = 0.01
    """Weight beta of |z|^2 / 2, relative to the squared error summed over the values of an example."""
    penalty: Literal["l2", "gradient", "spectral", "none"] = "l2"
    """Regularizer of the decoder. l2: sum of squares of its parameters. gradient: half the squared Frobenius norm of
    its Jacobian. spectral: no term in the loss, but kernels are divided by a spectral norm above 1 after every step."""
    penalty_weight: float = 1e-3
    """Weight lambda of the regularizer l2 or gradient."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape. ValueError for a weight without a regularizer in the loss."""
    if config.penalty in ("spectral", "none") and config.penalty_weight != Config.penalty_weight:
        raise ValueError(
            f"penalty_weight={config.penalty_weight:g} has no effect with penalty={config.penalty}; omit it"
        )
    model = autoencoder.Autoencoder(
        *autoencoder.dense(info.shape, config.hidden, config.latent, precision=config.precision),
        output=autoencoder.output(info),
    )
    penalty = "none" if config.penalty == "spectral" else config.penalty
    loss = rae.loss(model, config.code_weight, penalty, config.penalty_weight)
    optimizer = run.optimizer(config, info)
    if config.penalty == "spectral":
        optimizer = constraints.spectral(optimizer)
    return run.Experiment(model, descend(loss, optimizer), autoencoder.loss(model, "mse"), unit="per {value}")


if __name__ == "__main__":
    run.main(Config, build)
