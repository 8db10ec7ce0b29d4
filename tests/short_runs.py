"""Train every experiment for a few steps, print the SHA-256 of all its arrays, and write its golden values to a file.

Run in a separate process. `python tests/short_runs.py tests/golden.json [NAME ...]` records the golden values of all
experiments, or of those named; other entries are kept.
"""

import hashlib
import importlib
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

import jaxae
from jaxae import data, experiments, run
from jaxae.data.splits import held_out_mask
from jaxae.training import records
from jaxae.training.checkpoint import newest_digests

NAMES = experiments.names()
FIELDS = {
    "deep_svdd": {"epochs": 2, "pretrain": 1},
    "stacked": {"epochs": 4, "greedy": 1},  # one epoch per phase
    # Narrow networks: the same code in less time.
    **{name: {"filters": (4, 6), "width": 8, "layers": 1, "heads": 2} for name in ("code_prior", "masked_prior")},
    "codec": {"filters": (4, 6), "strides": (2, 2), "latent": 4, "codes": 8, "windows": (8, 16), "segment": 16},
    "convolutional": {"filters": (4, 6, 6)},
    "denoising": {"filters": (4, 6, 8)},
    "denoising_conv32": {"filters": (4, 6)},
    "fsq": {"filters": (4, 6)},
    "hvae": {"hidden": (12, 12), "latent": (4, 3)},
    "kl_autoencoder": {  # the discriminator starts after two of five steps
        "filters": (4, 8),
        "attention": (1,),
        "heads": 2,
        "discriminator": (4, 6, 8),
        "adversarial_start": 0.4,
    },
    "ladder": {"hidden": (12, 8), "latent": (4, 3)},
    "mae": {"width": 8, "depth": 2, "decoder_width": 8, "decoder_depth": 1, "heads": 2},
    "mirrored": {"filters": (4, 6, 6, 6)},
    "resnet_vae": {"filters": (4, 8), "blocks": 1, "latent": 4, "attention": (1,), "heads": 2},
    "sequence": {"hidden": 12, "latent": 8},
    "strided": {"filters": (4, 6, 6, 6)},
    "two_layer_iwae": {"hidden": (16,), "upper_hidden": (8,), "latent": (5, 3), "samples": 2},
    "vdvae": {"channels": 8, "latent_layers": (2, 1), "latent": 1},
    **{name: {"filters": (4, 6)} for name in ("vqvae", "vqvae2")},
    "scvi": {"data": "simulated_cells,train=160,test=80,genes=12", "batch_size": 32, "latent": 3, "library": "latent"},
    # With all that training changes without gradients: dead latents, resampling, a controlled coefficient.
    **{name: {"latent": 16, "active": 3, "dead_after": 2} for name in ("topk", "batch_topk", "matching_pursuit")},
    **{name: {"latent": 16, "target_active": 3.0, "resample_every": 3} for name in ("gated", "jump_relu", "l1")},
    "matryoshka": {"latent": 16, "active": 3, "dead_after": 2, "levels": (4, 9)},
}


def few(folder):
    """A file of 80 digits, with evenly spaced ones as the test split."""
    x, y, *_ = data.load("digits").train.take(np.arange(80))
    test = held_out_mask(y, 0.1, seed=None)
    np.savez(folder / "few.npz", x_train=x[~test], y_train=y[~test], x_test=x[test], y_test=y[test])
    return folder / "few.npz"


def fields(name):
    """One epoch of five steps (`stacked`: one per phase); `data` for an experiment that does not take images."""
    return {"epochs": 1, "batch_size": 16, "figures": "none", **FIELDS.get(name, {})}


def reached(workdir):
    """The golden values of a run."""
    train, test = records.read(workdir / "metrics.jsonl")[-2:]
    params = jax.tree.leaves(jaxae.load(workdir).params)
    norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in params))
    return {"train loss": train["loss"], "test loss": test["loss"], "norm of the parameters": float(f"{norm:.7g}")}


def short_run(name, file):
    """Train on these digits, print the digest, and return the golden values."""
    module, workdir = importlib.import_module(f"jaxae.experiments.{name}"), file.with_name(name)
    config = module.Config(**{"data": str(file), **fields(name)}, workdir=str(workdir))
    run.train(config, module.build, name)
    digests = json.dumps(newest_digests(workdir / "checkpoints"), sort_keys=True)
    print("SHA-256", name, hashlib.sha256(digests.encode()).hexdigest())
    return reached(workdir)


def main(path, names):
    with tempfile.TemporaryDirectory() as folder:
        file = few(Path(folder))
        found = {name: short_run(name, file) for name in names}
    known = (json.loads(path.read_text()) if path.exists() else {}) | found
    path.write_text(json.dumps({name: known[name] for name in NAMES if name in known}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or NAMES)
