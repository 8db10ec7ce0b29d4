# %% [markdown]
# # A sparse autoencoder on activations of your own
#
# An array of activations `[N, D]`, of any layer of any network, becomes a dictionary of directions and a sparse code of
# every row. Run this file with Python, or cell by cell in an editor that supports `# %%`; it takes half a minute on two
# CPU cores and writes into the current folder.

# %%
import numpy as np

import jaxae
from jaxae.measure import dictionary
from jaxae.variants.folding import fold

# %% [markdown]
# ## Activations
#
# Here they are made of 64 known directions in 32 dimensions, three of which are active in each row, so that the result
# can be compared with the truth. Your own may be a float16 or bfloat16 `.npy` of any size: pass its path, and rows are
# read from disk as they are needed. `jaxae activations` writes those of a language model.

# %%
rng = np.random.default_rng(0)
directions = rng.normal(size=(64, 32))
directions /= np.linalg.norm(directions, axis=1, keepdims=True)
active = rng.random((30_000, 64)).argsort(axis=1) < 3
x = (active * rng.uniform(2, 4, active.shape)) @ directions + 5

# %% [markdown]
# ## Five lines
#
# `topk` keeps the `active` largest codes of every row; `batch_topk`, `jump_relu`, `gated`, `l1`, `matryoshka` and
# `matching_pursuit` are the other architectures. Columns keep their own variances (`scale="none"`, the default of these
# experiments); `scale="standard"` standardizes them. In either case `encode` takes, and `reconstruct` returns, values
# in your own units.

# %%
model = jaxae.fit("topk", x, latent=64, active=3, scale="none", epochs=15, lr=2e-3, batch_size=256)
codes = np.asarray(model.encode(x))
error = np.sum((np.asarray(model.reconstruct(x)) - x) ** 2) / np.sum((x - x.mean(0)) ** 2)
print(f"fraction of variance unexplained {error:.4f}, active latents {(codes != 0).sum(1).mean():.2f}")
model.save("runs/sparse")

# %% [markdown]
# ## The dictionary
#
# The decoder is a parameter of the model. `fold` folds decoder norms, input scale and standardization into the weights:
# row k of the decoder is then what latent k adds to an activation, per unit of its code.

# %%
folded, variables = fold(model.experiment.model, model.variables, model.scale)
decoder = np.asarray(variables["params"]["decoder"])  # [64, 32]
print(f"mean |cosine| of matched directions (MCC) {dictionary.mcc(decoder, directions):.3f}")

# %% [markdown]
# `jaxae export runs/sparse --format saelens --out DIR` writes files that SAELens loads, and `jaxae.load(DIR)` reads
# them back. The report of a run from the command line (`jaxae topk --data x.npy`) has a section on the latents.
