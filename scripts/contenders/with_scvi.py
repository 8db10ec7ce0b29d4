"""scvi-tools: SCVI on the cells of `counts.py`. Prints -log p of every test cell and the rate; writes the codes.

The argument is a JSON object: see `counts.py`. The architecture is the default one, with the observed library size.
"""

import json
import logging
import sys
import time
import warnings
from typing import Any

import cells
import numpy as np
import torch


def main() -> None:
    """Train and evaluate, or time some epochs."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    stdout, sys.stdout = sys.stdout, sys.stderr  # the library prints too
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import anndata
    import scvi

    scvi.settings.seed = job["seed"]
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with np.load(job["cells"], allow_pickle=False) as file:
        of = {name: file[name] for name in file.files}
    table = anndata.AnnData(of["train"].astype(np.float32))
    table.obs["batch"] = of["train_batch"].astype(str)
    scvi.model.SCVI.setup_anndata(table, batch_key="batch")
    model = scvi.model.SCVI(table, n_latent=job["latent"], gene_likelihood=job["likelihood"])

    def train(epochs: int) -> float:
        began = time.perf_counter()
        model.train(
            max_epochs=epochs,
            accelerator="cpu",
            train_size=1.0,
            batch_size=job["batch"],
            enable_progress_bar=False,
            logger=False,
            enable_checkpointing=False,
            plan_kwargs={"n_epochs_kl_warmup": job["kl_warmup"] or None},
        )
        return time.perf_counter() - began

    if job["speed"]:
        train(1)
        seconds = [train(2) / 2 for _ in range(job["speed"])]
        print(json.dumps({"cells_per_second": len(of["train"]) / float(np.median(seconds))}), file=stdout, flush=True)
        return
    seconds = train(job["epochs"])
    model.module.eval()
    known = {name: number for number, name in enumerate(sorted({*of["train_batch"].astype(str).tolist()}))}
    x, batch = of["test"].astype(np.float32), [[known[str(name)]] for name in of["test_batch"].tolist()]
    found = [log_weights(model.module, x[part], batch[part]) for part in cells.parts(len(x))]
    codes = {"test": model.get_latent_representation(adata(anndata, x, of["test_batch"]))}
    codes["train"] = model.get_latent_representation()
    np.savez(job["out"], **codes)
    nats = -cells.log_p(np.concatenate(found))
    print(json.dumps({"nats": nats.tolist(), "seconds": seconds}), file=stdout, flush=True)


def adata(anndata: Any, x: np.ndarray, batch: np.ndarray) -> Any:
    """Cells with their batch."""
    found = anndata.AnnData(x)
    found.obs["batch"] = batch.astype(str)
    return found


@torch.inference_mode()
def log_weights(module: Any, x: np.ndarray, batch: list[list[int]]) -> np.ndarray:
    """log p(x|z) p(z) / q(z|x) of cells at samples of their codes."""
    inputs = {"x": torch.from_numpy(x), "batch_index": torch.tensor(batch)}
    inferred = module.inference(**inputs, n_samples=cells.SAMPLES)
    z, q = inferred["z"], inferred["qz"]
    many = inputs["batch_index"].unsqueeze(0).expand(len(z), -1, -1)
    rows = [part.reshape(-1, part.shape[-1]) for part in (z, inferred["library"], many)]
    p = module.generative(z=rows[0], library=rows[1], batch_index=rows[2])["px"]
    shape = (*z.shape[:2], -1)
    logit = getattr(p, "zi_logits", None)
    r = np.broadcast_to(p.theta.numpy(), p.mu.shape)
    mean, r, logit = (
        None if part is None else np.asarray(part, np.float64).reshape(*shape) for part in (p.mu, r, logit)
    )
    assert mean is not None and r is not None  # noqa: PT018, S101
    values = z.double().numpy()
    found = cells.log_mass(x.astype(np.float64)[None], mean, r, logit).sum(-1)
    found += cells.log_normal(values, np.zeros(1), np.ones(1))
    found -= cells.log_normal(values, q.loc.double().numpy(), q.scale.double().numpy())
    return found.T


if __name__ == "__main__":
    main()
