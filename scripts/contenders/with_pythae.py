"""pythae: the VAE and the trainer of the library."""

import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import turns
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import nn


class Encoder(BaseEncoder):
    """784 - hidden - mean and log variance."""

    def __init__(self, work: dict[str, Any]) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(784, work["hidden"]), nn.ReLU())
        self.mean, self.log_var = (nn.Linear(work["hidden"], work["latent"]) for _ in range(2))

    def forward(self, x: torch.Tensor) -> ModelOutput:
        h = self.hidden(x.reshape(len(x), -1))
        return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    """latent - hidden - pixels."""

    def __init__(self, work: dict[str, Any]) -> None:
        super().__init__()
        hidden = work["hidden"]
        self.layers = nn.Sequential(nn.Linear(work["latent"], hidden), nn.ReLU(), nn.Linear(hidden, 784), nn.Sigmoid())

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z).reshape(-1, 1, 28, 28))


def build(work: dict[str, Any], images: np.ndarray) -> turns.Steps:
    logging.disable(logging.CRITICAL)
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=work["latent"], reconstruction_loss="bce")
    model = VAE(config, Encoder(work), Decoder(work))
    data = torch.tensor(images).float().div_(255).reshape(-1, 1, 28, 28)
    size = work["batch"]

    def epoch(images: torch.Tensor) -> float:
        """Train one epoch on these images, and return the loss."""
        dataset = BaseDataset(images, torch.zeros(len(images)))
        quiet = Path(os.devnull).open("w")  # noqa: SIM115
        with tempfile.TemporaryDirectory() as folder, quiet, contextlib.redirect_stderr(quiet):
            settings = BaseTrainerConfig(
                output_dir=folder,
                learning_rate=work["lr"],
                per_device_train_batch_size=size,
                optimizer_cls="Adam",
                no_cuda=work["device"] == "cpu",
            )
            trainer = BaseTrainer(model, dataset, training_config=settings)
            trainer.prepare_training()
            return float(trainer.train_step(1))

    def steps(count: int) -> float:
        return [epoch(data[: n * size]) for n in turns.epochs(count, len(data) // size)][-1]

    return steps


if __name__ == "__main__":
    turns.serve(build)
