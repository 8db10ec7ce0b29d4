# %% [markdown]
# # A new variant
#
# An autoencoder whose latent dimensions are nearly uncorrelated, by the penalty of Cogswell, Ahmed, Girshick, Zitnick &
# Batra 2016, "Reducing overfitting in deep networks by decorrelating representations" (DeCov). It is a Flax module, a
# loss and an optimizer; jaxae compiles, trains and evaluates it. Run this file with Python, or cell by cell in an
# editor that supports `# %%`; it takes half a minute on two CPU cores and writes into the current folder.

# %%
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt

import jaxae

# %% [markdown]
# ## The model
#
# Any Flax module with `encode(x)` and `decode(z)`; `decode` returns pixels in [0, 1], and `__call__`, which creates the
# parameters, applies both.


# %%
class Autoencoder(nn.Module):
    """784-128-8-128-784."""

    def setup(self):
        self.encoder = nn.Sequential([nn.Dense(128), nn.relu, nn.Dense(8)])
        self.decoder = nn.Sequential([nn.Dense(128), nn.relu, nn.Dense(784), nn.sigmoid])

    def __call__(self, x):
        return self.decode(self.encode(x))

    def encode(self, x):
        return self.encoder(x.reshape(len(x), -1))

    def decode(self, z):
        return self.decoder(z).reshape(-1, 28, 28, 1)


model = Autoencoder()

# %% [markdown]
# ## The loss
#
# A pure function of (variables, batch, key). It returns terms, one number per example under each name, and the new
# values of collections that are not parameters, here none. `terms["loss"]` is minimised; the means of all terms are
# reported.
#
# With the covariance C of the codes of a batch, the penalty is (|C|^2 - |diag C|^2) / 2: half the sum of the squared
# covariances of different dimensions. It is a statistic of the global batch: `batch.mean` takes means over all devices,
# excluding padding, and `batch.repeat` broadcasts the statistic to a term.


# %%
def loss_with(weight):
    def loss(variables, batch, _):
        z = model.apply(variables, batch.x, method="encode")
        error = jnp.sum((model.apply(variables, z, method="decode") - batch.x) ** 2, axis=(1, 2, 3))
        centred = z - batch.mean(z)
        covariance = batch.mean(centred[:, :, None] * centred[:, None, :])
        penalty = (jnp.sum(covariance**2) - jnp.sum(jnp.diag(covariance) ** 2)) / 2
        return {"loss": error + weight * penalty, "error": error, "penalty": batch.repeat(penalty)}, {}

    return loss


def experiment_with(weight):
    loss = loss_with(weight)
    return jaxae.Experiment(model, train=jaxae.descend(loss, optax.adam(1e-3)), evaluate=loss, unit="squared error")


# %% [markdown]
# ## Training
#
# `jaxae.fit` trains on arrays, paths and data sets, and returns the trained model.

# %%
WEIGHT = 0.1
data = jaxae.data.load("digits")
plain = jaxae.fit(experiment_with(0.0), data, epochs=20, batch_size=100)
decorrelated = jaxae.fit(experiment_with(WEIGHT), data, epochs=20, batch_size=100)


# %% [markdown]
# With the penalty, the correlations of different dimensions on the test images are smaller, and the reconstruction
# error is about the same.


# %%
def correlations(trained):
    return np.abs(np.corrcoef(np.asarray(trained.encode(data.test.x)).T))


figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for axis, (name, trained) in zip(axes, {"without": plain, "with": decorrelated}.items(), strict=True):
    table = correlations(trained)
    different = table[~np.eye(len(table), dtype=bool)].mean()
    error = trained.evaluate(data.test.x)["error"]
    print(f"{name} the penalty: mean |correlation| {different:.3f}, squared error per image {error:.2f}")
    shown = axis.imshow(table, vmin=0, vmax=1)
    axis.set_title(f"{name} the penalty")
    axis.set(xlabel="latent dimension", ylabel="latent dimension")
figure.colorbar(shown, ax=axes, label="|correlation|")
figure.savefig("new_variant.png", dpi=130)
print("written: new_variant.png")

# %% [markdown]
# ## A loop of your own
#
# `jaxae.iterate` is the same training as a generator of snapshots, for rules and logs of your own: here training stops
# as soon as an epoch improves the test error by less than one percent.

# %%
best = np.inf
for snapshot in jaxae.iterate(experiment_with(WEIGHT), data, epochs=100, batch_size=100):
    if snapshot.test:  # at the end of an epoch
        if snapshot.test["error"] > 0.99 * best:
            break
        best = snapshot.test["error"]
print(f"stopped after epoch {snapshot.epoch}, with a squared error of {snapshot.test['error']:.2f}")
stopped = jaxae.Trained(experiment_with(WEIGHT), snapshot.state, data.shape)
print("its codes", stopped.encode(data.test.x).shape)

# %% [markdown]
# ## Checking the formula
#
# The loss is checked against its definition in NumPy, in double precision: `numpy.cov` divides by N - 1 unless
# `bias=True`. `terms` returns the terms of every example, and takes all 359 test images as one batch. The evaluation
# after an epoch takes 100 at a time; covariances of so few examples are noisier, and their squares larger on average.

# %%
x = data.test.x / 255
z = np.asarray(decorrelated.encode(data.test.x), np.float64)
images = np.asarray(decorrelated.reconstruct(data.test.x), np.float64)
covariance = np.cov(z.T, bias=True)
penalty = (np.sum(covariance**2) - np.sum(np.diag(covariance) ** 2)) / 2
expected = np.sum((images - x) ** 2, axis=(1, 2, 3)) + WEIGHT * penalty
found = decorrelated.terms(data.test.x)["loss"]
np.testing.assert_allclose(found, expected, rtol=1e-4)
print(f"loss {found.mean():.4f}, in NumPy {expected.mean():.4f}; the penalty is {WEIGHT * penalty:.4f}")
print(f"in batches of 100: {decorrelated.history[-1]['loss']:.4f}")

# %% [markdown]
# As a file in `experiments/`, with a `Config`, the same loss gets a command line, checkpoints and a report: see
# [README.md](../../README.md), "A new variant is one short file".
