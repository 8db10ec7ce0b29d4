"""A sparse autoencoder: the simple one with an L1 penalty on the latent code (for activations of networks see topk).

Group: regularized
Source: F. Chollet, "Building autoencoders in Keras", 2016, in a Chinese translation (keras-autoencoder.md). Ng 2011.
Published: training loss 0.11 nats per pixel, of which about 0.01 are the penalty, test loss 0.10 without it, mean code
3.33 (Chollet 2016).
Command: jaxae sparse --data mnist --seeds 3
Measured: test loss 0.1112 +- 0.0018 nats per pixel (penalty 0.01023 +- 0.00019; without it 0.101 +- 0.002), mean code
3.196 +- 0.059 over three seeds; 271 s in total on two shared CPU cores.
"""

from dataclasses import dataclass

import flax.linen as nn

from jaxae import run
from jaxae.core.step import descend
from jaxae.experiments import simple
from jaxae.variants import autoencoder, sparse


@dataclass(frozen=True)
class Config(simple.Config):
    """784-32-784, ReLU code with an L1 penalty, cross-entropy, Adadelta."""

    epochs: int = 100
    sparsity: float = 1e-4
    """Weight of the sum of the code's absolute values."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = autoencoder.Autoencoder(
        *autoencoder.dense(info.shape, config.hidden, config.latent, final=nn.relu, precision=config.precision),
        output=autoencoder.output(info),
    )
    loss = autoencoder.loss(model, "bce", penalty=sparse.l1(config.sparsity))
    return run.Experiment(
        model,
        descend(loss, run.optimizer(config, info)),
        loss,
        expected={"mnist": {"loss": 0.112, "code": (3.0, 3.7)}},
        unit=autoencoder.unit("bce", info),
    )


if __name__ == "__main__":
    run.main(Config, build)
