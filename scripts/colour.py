"""Bits per dimension of variational autoencoders of colour images after equal training time.

    python scripts/colour.py $DATA/cifar10-jpeg --seconds 200 --seeds 0 1 2

trains, for every seed, `resnet_vae`, the dense `vae` and a convolutional network with a mirrored decoder, all with the
same likelihood, latent dimensions and optimizer, each until its steps have taken this time (compilation excluded), and
evaluates it on the test split. Prints a JSON object per run; a run that is already in --out is not repeated.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from jaxae import data, iterate, likelihoods, nets, run
from jaxae.core.experiment import Experiment
from jaxae.core.step import descend
from jaxae.core.types import Info
from jaxae.data import Dataset
from jaxae.experiments import resnet_vae
from jaxae.experiments import vae as dense
from jaxae.run import variational
from jaxae.training.trained import Trained
from jaxae.variants import vae

LATENT, BATCH, RATE = 128, 64, 1e-3
COMMON: dict[str, Any] = {
    "latent": LATENT,
    "batch_size": BATCH,
    "lr": RATE,
    "optimizer": "adam",
    "clip": 100.0,
    "likelihood": "logistic-mixture",
}


def residual(info: Info) -> Experiment:
    """`resnet_vae` with 16, 32 and 64 channels, one block per level."""
    config = resnet_vae.Config(**COMMON, filters=(16, 32, 64), blocks=1)
    return resnet_vae.build(config, info)


def mlp(info: Info) -> Experiment:
    """`vae` with hidden layers of 1024 and 512 units."""
    return dense.build(dense.Config(**COMMON, hidden=(1024, 512)), info)


def mirrored(info: Info) -> Experiment:
    """Convolutions of stride 2 with 32, 64 and 128 filters, and a mirrored decoder."""
    config = dense.Config(**COMMON)
    likelihood = likelihoods.named(config.likelihood, 1.0, info)
    shape: dict[str, Any] = {"filters": (32, 64, 128), "strides": (2,), "activation": nn.leaky_relu}
    decoder = nets.Deconv(likelihood.parameters(info.shape), **shape)
    model = vae.VAE(nets.Conv(outputs=(2 * LATENT,), **shape), likelihood.decoder(decoder), likelihood)
    loss = vae.loss(model)
    return variational.experiment(config, info, model, descend(loss, run.optimizer(config, info)), loss)


MODELS: dict[str, Callable[[Info], Experiment]] = {"resnet_vae": residual, "vae": mlp, "mirrored": mirrored}


def measured(experiment: Experiment, images: Dataset, seconds: float, seed: int) -> dict[str, float]:
    """Train for this time, evaluate, and return bits per dimension, images and steps."""
    epochs, spent, evaluated = 1000, 0.0, None
    few = images._replace(test=images.test.take(np.arange(1)))
    for now in iterate(experiment, few, epochs=epochs, batch_size=BATCH, seed=seed):
        spent += now.seconds
        if spent >= seconds:
            evaluated = now
            break
    if evaluated is None:
        raise SystemExit(f"{epochs} epochs took only {spent:.0f} s; use --seconds {spent:.0f} or less")
    model = Trained(experiment, evaluated.state, images.shape)
    terms = model.evaluate(images.test)
    bits = math.prod(images.shape) * math.log(2)
    found = {name: float(terms[name]) / bits for name in ("loss", "reconstruction", "kl")}
    return {**found, "mse": float(terms["mse"]), "steps": evaluated.step, "seconds": spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train.tar and test.tar")
    parser.add_argument("--seconds", type=float, default=200.0, help="training time (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--out", type=Path, default=Path("runs/colour.jsonl"), help="default: %(default)s")
    options = parser.parse_args()
    images = data.load(str(options.data / "train.tar"), test=str(options.data / "test.tar"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(row["model"], row["seed"], row["budget"]) for row in known}
    for seed in options.seeds:
        for name in options.models:
            if (name, seed, options.seconds) in done:
                continue
            began = time.monotonic()
            found = measured(MODELS[name](images.info), images, options.seconds, seed)
            found |= {"budget": options.seconds, "total_seconds": time.monotonic() - began}
            line = json.dumps({"model": name, "seed": seed, **found})
            with options.out.open("a") as file:
                file.write(f"{line}\n")
            print(line, flush=True)


if __name__ == "__main__":
    main()
