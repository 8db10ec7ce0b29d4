"""Exchange sparse autoencoders with SAELens, in an environment with sae-lens: python scripts/with_saelens.py FOLDER

Loads each model in FOLDER/ours with SAELens, and writes its codes and reconstructions of FOLDER/x.npy [N, d] into its
folder as `out.npz`; saves a random model of each architecture with SAELens into FOLDER/theirs, with such an `out.npz`.
`tests/test_saelens.py` compares both with jaxae: JAXAE_SAELENS=PYTHON pytest -m slow tests/test_saelens.py, where
PYTHON is that of the environment.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    MatchingPursuitSAE,
    MatchingPursuitSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)

LATENTS = 24
MODELS = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "standard_uncentred": (StandardSAE, StandardSAEConfig, {"apply_b_dec_to_input": False}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": 5}),
    "topk_rescaled": (TopKSAE, TopKSAEConfig, {"k": 5, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "gated": (GatedSAE, GatedSAEConfig, {}),
    "gated_uncentred": (GatedSAE, GatedSAEConfig, {"apply_b_dec_to_input": False}),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": 5}),
    "matching_pursuit": (
        MatchingPursuitSAE,
        MatchingPursuitSAEConfig,
        {"max_iterations": 5, "residual_threshold": 0, "stop_on_duplicate_support": False},
    ),
    "matryoshka_batchtopk": (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        {"k": 5, "matryoshka_widths": [8, 24]},
    ),
}


def main() -> None:
    folder = Path(sys.argv[1])
    x = torch.tensor(np.load(folder / "x.npy"))
    for path in sorted((folder / "ours").iterdir()):
        write(path, SAE.load_from_disk(path), x)
    torch.manual_seed(0)
    for name, (kind, config, fields) in MODELS.items():
        model = kind(config(d_in=x.shape[1], d_sae=LATENTS, **fields))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.5)
            if name == "matching_pursuit":
                model.W_dec /= model.W_dec.norm(dim=1, keepdim=True)
            if "threshold" in dict(model.named_parameters()):
                model.threshold.uniform_(-0.2, 1)
            if hasattr(model, "topk_threshold"):
                model.topk_threshold.fill_(0.7)
        path = folder / "theirs" / name
        model.save_model(path)
        inference = model
        if hasattr(model, "save_inference_model"):
            model.save_inference_model(folder / "inference" / name)
            inference = SAE.load_from_disk(folder / "inference" / name)
        write(path, inference, x)


def write(path: Path, model: SAE, x: torch.Tensor) -> None:
    with torch.no_grad():
        codes = model.encode(x)
        np.savez(path / "out.npz", codes=codes.numpy(), decoded=model.decode(codes).numpy())


if __name__ == "__main__":
    main()
