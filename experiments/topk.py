"""A sparse autoencoder that keeps the k largest latent activations of each example, with AuxK for dead latents.

Group: sparse dictionaries
Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders"; Makhzani & Frey 2013. The
unrectified, unnormalized auxiliary loss is that of SAELens.
Published: no result for these data (Gao et al. 2024).
Command: jaxae topk --data superposition/eighth,shared=true --epochs 2 --latent 512 --lr 1e-3 --seeds 5 --active 8
"""

from dataclasses import dataclass

from jaxae import run
from jaxae.run import dictionary
from jaxae.variants import top_k


@dataclass(frozen=True)
class Config(dictionary.Fields, run.Config):
    """One hidden layer of 4,096 latents, squared error, Adam."""

    active: int = 25
    """Number of active latents of every example (k)."""
    auxiliary: float = 1.0


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    return dictionary.experiment(config, info, top_k.TopK(config.active))


if __name__ == "__main__":
    run.main(Config, build)
