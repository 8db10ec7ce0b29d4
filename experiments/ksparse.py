"""A k-sparse autoencoder: linear, except that only the k largest latent activations stay nonzero.

Group: regularized
Source: Makhzani & Frey 2013, who evaluate it by the classification error on its codes (see `jaxae probe`).
Published: no result for the loss (Makhzani & Frey 2013).
Command: jaxae ksparse --data mnist --seeds 3
Measured: test MSE 0.00699 +- 6.9e-05 per pixel over three seeds; 263 s in total on two shared CPU cores.
"""

from dataclasses import dataclass

from jaxae import run
from jaxae.core.step import descend
from jaxae.training import epoch
from jaxae.variants import autoencoder, ksparse


@dataclass(frozen=True)
class Config(run.Config):
    """784-1000-784, linear, tied weights, squared error, Adam."""

    epochs: int = 10
    latent: int = 1000
    """Number of latent dimensions."""
    active: int = 25
    """Nonzero latent dimensions at the end of training (k)."""
    active_start: int = 100
    """Nonzero latent dimensions at the first step, or all if there are fewer; the number decreases to --active within
    the first half of the steps."""
    alpha: float = 3.0
    """Nonzero latent dimensions after training, as a multiple of --active (the source uses 1 to 3)."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    start = min(config.active_start, config.latent)
    model = ksparse.KSparse(
        info.shape, config.latent, precision=config.precision, active=config.active, alpha=config.alpha, limit=start
    )
    for k in (model.active, model.evaluated):
        if not 0 < k <= config.latent:
            raise ValueError(
                f"active={config.active} alpha={config.alpha} cannot keep {k} of latent={config.latent} dimensions; "
                f"active and alpha * active must be from 1 to {config.latent}"
            )
    if start < config.active:
        raise ValueError(f"active_start={config.active_start} must be at least active={config.active}")
    active = ksparse.falling(start, config.active, epoch.first_step(config.epochs, info.train, config.batch_size))
    train = descend(ksparse.loss(model, active), run.optimizer(config, info))
    return run.Experiment(model, train, autoencoder.loss(model, "mse"), unit="per {value}")


if __name__ == "__main__":
    run.main(Config, build)
