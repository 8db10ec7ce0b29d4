"""SAELens: its sparse autoencoders, trainer and metrics, on the constants of one of jaxae's worlds or on activations.

The argument is a JSON object: see `dictionaries.py`. Prints the metrics and the seconds of training.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import (
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAEConfig,
    LoggingConfig,
    MatchingPursuitTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAEConfig,
    TopKTrainingSAEConfig,
)
from sae_lens.registry import get_sae_training_class
from sae_lens.synthetic import ActivationGenerator, FeatureDictionary, HierarchyConfig, generate_hierarchy
from sae_lens.synthetic.correlation import LowRankCorrelationMatrix
from sae_lens.synthetic.evals import eval_sae_on_synthetic_data
from sae_lens.synthetic.synthetic_sae_runner import SyntheticSAERunnerConfig
from sae_lens.synthetic.training import SyntheticActivationIterator
from sae_lens.training.sae_trainer import SAETrainer

GAIN, DAMPING, RATE = 0.01, 3.0, 0.01  # of the controller, those of jaxae/variants/dictionary_learning.py


def world(path: str, trees: dict[str, Any]) -> tuple[FeatureDictionary, ActivationGenerator]:
    """The dictionary and the generator of features with these constants."""
    with np.load(path, allow_pickle=False) as file:
        of = {name: torch.from_numpy(file[name]) for name in file.files}
    count, dim = of["dictionary"].shape
    features = FeatureDictionary(count, dim, bias=1.0, initializer=None)
    features.feature_vectors.data, features.bias.data = of["dictionary"], of["bias"]
    modifier = None
    if trees["roots"]:
        config = HierarchyConfig(
            total_root_nodes=trees["roots"],
            branching_factor=trees["children"],
            max_depth=trees["depth"],
            mutually_exclusive_portion=1.0,
            scale_children_by_parent=trees["scaled"],
        )
        modifier = generate_hierarchy(count, config).modifier
    generator = ActivationGenerator(
        count,
        of["probability"],
        std_firing_magnitudes=of["std"],
        mean_firing_magnitudes=of["mean"],
        modify_activations=modifier,
        correlation_matrix=LowRankCorrelationMatrix(of["factor"], of["own"]),
    )
    return features, generator


def configuration(job: dict[str, Any], dim: int) -> Any:
    """SAELens' defaults, but the fields of its published experiments, and on activations the input scale of jaxae.

    Those experiments are github.com/decoderesearch/synth-sae-bench-experiments, sweeps/common.py.
    """
    scaled = job["data"] or job["architecture"] == "jump_relu"
    normalized = "expected_average_only_in" if scaled else "none"
    sizes = {"d_in": dim, "d_sae": job["latent"], "normalize_activations": normalized}
    steps = job["samples"] // job["batch"]
    match job["architecture"]:
        case "topk":
            return TopKTrainingSAEConfig(**sizes, k=job["active"])
        case "batch_topk":
            return BatchTopKTrainingSAEConfig(**sizes, k=job["active"])
        case "matryoshka":
            widths = [*job["levels"], job["latent"]]
            return MatryoshkaBatchTopKTrainingSAEConfig(
                **sizes, k=job["active"], matryoshka_widths=widths, use_matryoshka_aux_loss=True
            )
        case "matching_pursuit":
            return MatchingPursuitTrainingSAEConfig(
                **sizes,
                max_iterations=job["active"],
                residual_threshold=0.0,
                stop_on_duplicate_support=False,
                decoder_init_norm=1.0,
            )
        case "gated":
            return GatedTrainingSAEConfig(**sizes, l1_coefficient=1.0)
        case "l1":
            return StandardTrainingSAEConfig(**sizes, l1_coefficient=1.0, l1_warm_up_steps=steps // 3)
        case "jump_relu":
            return JumpReLUTrainingSAEConfig(
                **sizes,
                jumprelu_init_threshold=1.0,
                jumprelu_bandwidth=1.0,
                jumprelu_sparsity_loss_mode="step",
                l0_coefficient=1.0,
                decoder_init_norm=0.5,
            )
    raise SystemExit(f"{job['architecture']} is unknown")


def control(trainer: SAETrainer, active: float) -> None:
    """Adjust the coefficient after its warm-up towards this number of active latents, like jaxae's controller."""
    forward = trainer.sae.training_forward_pass
    (coefficient,) = trainer.coefficient_schedulers.values()
    average: float | None = None  # of log(active)

    def controlled(*args: Any, **kwargs: Any) -> Any:
        nonlocal average
        output = forward(*args, **kwargs)
        if coefficient.current_step >= coefficient.warm_up_steps:
            now = math.log(max(float((output.feature_acts != 0).float().sum(1).mean()), 1e-6))
            average = now if average is None else average
            error = now - math.log(active) + DAMPING * (now - average)
            coefficient.final_value *= math.exp(GAIN * min(max(error, -1.0), 1.0))
            average += RATE * (now - average)
        return output

    trainer.sae.training_forward_pass = controlled


def batches(x: np.ndarray, rows: np.ndarray, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless batches of these rows, in a new order in every pass."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(rows)
        for first in range(0, len(order) - size + 1, size):
            yield torch.from_numpy(x[order[first : first + size]].astype(np.float32))


@torch.no_grad()
def evaluated(sae: Any, x: np.ndarray, rows: np.ndarray, size: int) -> dict[str, float]:
    """Those metrics of `jaxae.measure.dictionary` that need no known dictionary."""
    sae.eval()
    error = square = active = 0.0
    total, fired = np.zeros(x.shape[1]), torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    for first in range(0, len(rows), size):
        part = torch.from_numpy(x[rows[first : first + size]].astype(np.float32))
        codes = sae.encode(part)
        error += float(((part - sae.decode(codes)).double() ** 2).sum())
        square, total = square + float((part.double() ** 2).sum()), total + part.double().sum(0).numpy()
        active, fired = active + float((codes != 0).sum()), fired | (codes != 0).any(0)
    variance = square - float(total @ total) / len(rows)
    return {
        "explained_variance": 1 - error / variance,
        "l0": active / len(rows),
        "dead": float((~fired).float().mean()),
    }


def main() -> None:
    """Train and evaluate."""
    job = json.loads(sys.argv[1])
    stdout, sys.stdout = sys.stdout, sys.stderr  # the library prints too
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    data: Iterator[torch.Tensor]
    if job["data"]:
        x = np.load(Path(job["data"]) / "activations.npy", mmap_mode="r", allow_pickle=False)
        with np.load(job["constants"], allow_pickle=False) as file:
            train, test = file["train"], file["test"]
        data, dim = batches(x, train, job["batch"], job["seed"]), x.shape[1]
    else:
        features, generator = world(job["constants"], job["trees"])
        data = SyntheticActivationIterator(features, generator, batch_size=job["batch"])
        dim = features.hidden_dim
    config = configuration(job, dim)
    settings = SyntheticSAERunnerConfig(
        synthetic_model="",
        sae=config,
        training_samples=job["samples"],
        batch_size=job["batch"],
        lr=job["lr"],
        logger=LoggingConfig(log_to_wandb=False),
        n_batches_for_norm_estimate=10 if job["data"] else 1000,  # about as many examples as jaxae; its default
    )
    kind, _ = get_sae_training_class(config.architecture())
    trainer = SAETrainer(cfg=settings.to_sae_trainer_config(), sae=kind(config), data_provider=data)
    if job["architecture"] in ("l1", "jump_relu", "gated"):
        control(trainer, job["active"])
    began = time.perf_counter()
    sae = trainer.fit()
    seconds = time.perf_counter() - began
    if job["data"]:
        print(json.dumps({**evaluated(sae, x, test, job["batch"]), "seconds": seconds}), file=stdout, flush=True)
        return
    found = eval_sae_on_synthetic_data(sae, features, generator, num_samples=job["test"], batch_size=job["batch"])
    metrics = {
        "explained_variance": found.explained_variance,
        "l0": found.sae_l0,
        "mcc": found.mcc,
        "uniqueness": found.uniqueness,
        "precision": found.classification.precision,
        "recall": found.classification.recall,
        "f1": found.classification.f1_score,
        "dead": found.dead_latents / job["latent"],
        "shrinkage": found.shrinkage,
        "true_l0": found.true_l0,
    }
    print(json.dumps({**metrics, "seconds": seconds}), file=stdout, flush=True)


if __name__ == "__main__":
    main()
