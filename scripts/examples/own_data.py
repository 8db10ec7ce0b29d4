# %% [markdown]
# # Your own data in ten lines
#
# An array of images becomes a trained model, and the model gives codes, reconstructions, samples and scores. Run this
# file with Python, or cell by cell in an editor that supports `# %%`; it takes half a minute on two CPU cores and
# writes into the current folder.

# %%
from pathlib import Path

import jax
import numpy as np
from matplotlib import pyplot as plt
from PIL import Image
from sklearn.datasets import load_digits

import jaxae

# %% [markdown]
# ## An array
#
# `jaxae.fit` takes `[N, H, W]` or `[N, H, W, C]`. Bytes, and floats in [0, 1], are pixels; floats of any other range
# are standardized. The digits of scikit-learn are floats from 0 to 16; dividing them by 16 makes them pixels.
#
# `"vae"` is one of the experiments that `jaxae list` prints; `latent`, `hidden` and the others are fields of its
# configuration (`jaxae vae --help`). Grey levels are numbers rather than probabilities, so p(x|z) is a normal
# distribution here, with a standard deviation of 0.15. A tenth of the examples is held out, to evaluate after every
# epoch.

# %%
digits = load_digits()
x = digits.images / 16  # float64 [1797, 8, 8] in [0, 1]
model = jaxae.fit("vae", x, latent=8, hidden=(256,), likelihood="normal", likelihood_scale=0.15, epochs=100)
losses = [line["loss"] for line in model.history if line["split"] == "test"]
print(f"test loss after the first and the last epoch: {losses[0]:.1f}, {losses[-1]:.1f} nats per image")

# %% [markdown]
# ## Codes, reconstructions, samples
#
# `encode` returns the mean of q(z|x), which is deterministic. `decode` and `reconstruct` return images in [0, 1] with
# an axis of channels. `sample` decodes samples from the prior.

# %%
codes = model.encode(x)  # [1797, 8]
images = model.reconstruct(x[:10])  # [10, 8, 8, 1]
samples = model.sample(jax.random.key(0), 10)  # [10, 8, 8, 1]
print("codes", codes.shape, "reconstructions", images.shape, "samples", samples.shape)

# %% [markdown]
# ## Anomaly scores
#
# `score` is the loss of each example, here the negative evidence lower bound in nats (of a density, so it can be
# negative); larger is more anomalous. Negatives of digits, which are not in the training data, have larger scores.

# %%
scores, of_negatives = model.score(x), model.score(1 - x)  # [1797] each
strangest = scores.argsort()[-10:]
print(f"mean score of the digits {scores.mean():.1f} nats, of their negatives {of_negatives.mean():.1f} nats")

# %% [markdown]
# ## A picture
#
# Digits, their reconstructions, samples, and the ten digits with the highest scores.

# %%
rows = {"digits": x[:10], "reconstructions": images[..., 0], "samples": samples[..., 0], "strangest": x[strangest]}
figure, axes = plt.subplots(len(rows), 1, figsize=(6, 3.2), layout="constrained")
for axis, (name, row) in zip(axes, rows.items(), strict=True):
    axis.imshow(np.hstack(np.pad(row, ((0, 0), (1, 1), (1, 1)))), cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
figure.savefig("own_data.png", dpi=130)
print("written: own_data.png")

# %% [markdown]
# ## A folder of pictures
#
# `fit` also takes a path: a folder of images of one size, with one subfolder per class if they have classes. With a
# `workdir`, `fit` writes the same files as the command line: checkpoints, metrics, figures and `report.html` (here
# without the last two, which take time); repeating the call resumes. `jaxae.load` loads the run later.

# %%
for number, (image, label) in enumerate(zip(x, digits.target, strict=True)):
    path = Path("pictures") / str(label) / f"{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * image).round().astype(np.uint8)).save(path)
data = jaxae.data.load("pictures")
print("training images", data.train.x.shape, data.train.x.dtype, "classes", data.classes)
jaxae.fit("simple", "pictures", epochs=5, workdir="runs/pictures", figures=False)
loaded = jaxae.load("runs/pictures")
print(f"test loss of the loaded model: {loaded.evaluate(data.test.x)['loss']:.4f} nats per pixel")
