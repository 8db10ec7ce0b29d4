"""vector-quantize-pytorch: one of its quantizers on batches of vectors. Argument and output: see `quantizers.py`."""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from vector_quantize_pytorch import FSQ, LFQ, ResidualVQ, SimVQ, VectorQuantize


def quantizer(job: dict[str, Any], dim: int) -> Any:
    """The quantizer of this name."""
    name, options = job["theirs"]
    kinds = {"vq": VectorQuantize, "residual": ResidualVQ, "simvq": SimVQ, "fsq": FSQ, "lfq": LFQ}
    return kinds[name](dim=dim, **options)


def main() -> None:
    """Run 200 steps, and evaluate."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    x, rng = np.load(job["vectors"]), np.random.default_rng(job["seed"])
    model = quantizer(job, x.shape[1])
    seconds = []
    for _ in range(job["steps"]):
        z = torch.from_numpy(x[None, rng.integers(0, len(x), job["batch"])])
        began = time.perf_counter()
        z.requires_grad_()
        codes, _, *loss = model(z)
        (codes.pow(2).sum(-1).mean() + sum(part.sum() for part in loss)).backward()
        seconds.append(time.perf_counter() - began)
        model.zero_grad()
    model.eval()
    with torch.no_grad():
        codes, indices, *_ = model(torch.from_numpy(x[None]))
    error = (codes[0].double() - torch.from_numpy(x)).pow(2).sum(-1).mean()
    first = indices.reshape(len(x), -1)[:, 0].tolist()
    print(json.dumps({"seconds": seconds, "error": float(error), "indices": first}))


if __name__ == "__main__":
    main()
