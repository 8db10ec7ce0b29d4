"""A sparse autoencoder that keeps the k B largest latent activations of a batch of B examples.

Group: sparse dictionaries
Source: Bussmann, Leask & Nanda 2024, "BatchTopK sparse autoencoders". In inference a threshold, a moving average,
replaces the batch.
Published: on SynthSAEBench-16k with --active 25 and 200 M samples F1 0.7316 +- 0.0010, MCC 0.7574, explained variance
0.7923 over five seeds (arXiv 2602.14687).
Command: jaxae batch_topk --data superposition/eighth,shared=true --epochs 2 --latent 512 --lr 1e-3 --seeds 5 --active 8
"""

from dataclasses import dataclass

from jaxae import run
from jaxae.run import dictionary
from jaxae.variants import top_k


@dataclass(frozen=True)
class Config(dictionary.Fields, run.Config):
    """One hidden layer of 4,096 latents, squared error, Adam."""

    active: int = 25
    """Mean number of active latents per example in a batch (k)."""
    auxiliary: float = 1.0


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    return dictionary.experiment(config, info, top_k.BatchTopK(config.active))


if __name__ == "__main__":
    run.main(Config, build)
