"""SAELens: its sparse autoencoders, trainer, synthetic data and metrics, on the constants of one of jaxae's worlds.

The argument is a JSON object: see `dictionaries.py`. Prints the metrics, the seconds of training and the samples.
"""

import json
import math
import sys
import time
from typing import Any

import numpy as np
import torch
from sae_lens import (
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAEConfig,
    LoggingConfig,
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

GAIN = 3e-3  # of the controller of the coefficient, per step, as in jaxae


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
    """Its defaults, except for what the protocol states."""
    sizes = {"d_in": dim, "d_sae": job["latent"]}
    steps = job["samples"] // job["batch"]
    match job["architecture"]:
        case "topk":
            return TopKTrainingSAEConfig(**sizes, k=job["active"])
        case "batch_topk":
            return BatchTopKTrainingSAEConfig(**sizes, k=job["active"])
        case "matryoshka":
            widths = [*job["levels"], job["latent"]]
            return MatryoshkaBatchTopKTrainingSAEConfig(**sizes, k=job["active"], matryoshka_widths=widths)
        case "l1":
            return StandardTrainingSAEConfig(**sizes, l1_coefficient=1.0, l1_warm_up_steps=steps // 3)
        case "jump_relu":
            return JumpReLUTrainingSAEConfig(
                **sizes,
                jumprelu_init_threshold=1.0,
                jumprelu_bandwidth=1.0,
                jumprelu_sparsity_loss_mode="step",
                l0_coefficient=1.0,
                normalize_activations="expected_average_only_in",
            )
    raise SystemExit(f"{job['architecture']} is unknown")


def control(trainer: SAETrainer, active: float) -> None:
    """Multiply the coefficient after its warm-up, towards this number of active latents."""
    forward = trainer.sae.training_forward_pass

    def controlled(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        for coefficient in trainer.coefficient_schedulers.values():
            if coefficient.current_step >= coefficient.warm_up_steps:
                found = float((output.feature_acts != 0).float().sum(1).mean())
                error = math.log(max(found, 1e-6) / active)
                coefficient.final_value *= math.exp(GAIN * min(max(error, -1.0), 1.0))
        return output

    trainer.sae.training_forward_pass = controlled


def main() -> None:
    """Train and evaluate."""
    job = json.loads(sys.argv[1])
    talk, sys.stdout = sys.stdout, sys.stderr  # the library prints too
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    features, generator = world(job["constants"], job["trees"])
    config = configuration(job, features.hidden_dim)
    settings = SyntheticSAERunnerConfig(
        synthetic_model="",
        sae=config,
        training_samples=job["samples"],
        batch_size=job["batch"],
        lr=job["lr"],
        logger=LoggingConfig(log_to_wandb=False),
    )
    kind, _ = get_sae_training_class(config.architecture())
    data = SyntheticActivationIterator(features, generator, batch_size=job["batch"])
    trainer = SAETrainer(cfg=settings.to_sae_trainer_config(), sae=kind(config), data_provider=data)
    if job["architecture"] in ("l1", "jump_relu"):
        control(trainer, job["active"])
    began = time.perf_counter()
    sae = trainer.fit()
    seconds = time.perf_counter() - began
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
    print(json.dumps({**metrics, "seconds": seconds}), file=talk, flush=True)


if __name__ == "__main__":
    main()
