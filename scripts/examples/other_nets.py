# %% [markdown]
# # Nets of Flax NNX, of Equinox, or of plain functions
#
# The models of jaxae are modules of Flax Linen. `jaxae.nets.wrap` turns a net of another library into such a module,
# for use as encoder or decoder; runs, checkpoints, seeds and devices then work as for any other module. Run this file
# with Python, or cell by cell in an editor that supports `# %%`; it takes half a minute on two CPU cores and writes
# into the current folder.

# %%
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jaxae
from jaxae import nets
from jaxae.variants import autoencoder

# %% [markdown]
# ## An encoder in Flax NNX
#
# `wrap` takes a function of a key, so that every seed has its own initial parameters. In training the module is in
# training mode: each example has a key of its own for dropout, and batch norm takes means over all devices.


# %%
class Encoder(nnx.Module):
    """784-128-8, with batch norm and dropout."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(784, 128, rngs=rngs)
        self.norm = nnx.BatchNorm(128, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.code = nnx.Linear(128, 8, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.norm(self.hidden(x.reshape(len(x), -1))))
        return self.code(self.dropout(h))


encoder = nets.wrap(lambda key: Encoder(nnx.Rngs(key)))

# %% [markdown]
# ## A decoder of plain functions
#
# A decoder can be a pair of pure functions: one returns the parameters, as any pytree, and the other applies them to a
# batch. An Equinox module is such a pytree, with a method for a single example: `nets.wrap(lambda key: eqx.nn.MLP(8,
# 784, 128, 1, key=key), lambda net, z: jax.vmap(net)(z).reshape(-1, 28, 28, 1))`.


# %%
def parameters(key):
    first, second = jax.random.split(key)
    glorot = jax.nn.initializers.glorot_uniform()
    return [(glorot(first, (8, 128)), jnp.zeros(128)), (glorot(second, (128, 784)), jnp.zeros(784))]


def decode(params, z):
    (a, b), (c, d) = params
    return (jax.nn.relu(z @ a + b) @ c + d).reshape(-1, 28, 28, 1)


decoder = nets.wrap(parameters, decode)

# %% [markdown]
# ## Training
#
# The model is an autoencoder like any other. Arrays of floats are its parameters, under their names in the net.

# %%
model = autoencoder.Autoencoder(encoder, decoder)  # with a logistic output
loss = autoencoder.loss(model, "bce")
experiment = jaxae.Experiment(model, jaxae.descend(loss, optax.adam(1e-3)), loss, unit="nats per pixel")
options = {"epochs": 10, "batch_size": 64, "progress": False}
trained = jaxae.fit(experiment, "digits", seeds=2, workdir="runs/other_nets", figures=False, **options)

for name, part in trained.variables.items():
    print(name, {net: sorted(arrays) for net, arrays in part.items()})
history = [line["loss"]["seeds"] for line in trained.history if line["split"] == "test"]
print("test loss of two seeds after the first and the last epoch:", *history[0], *history[-1])

# %% [markdown]
# ## The run
#
# The same call returns the finished run at once, and `jaxae.load` reads it. Seed 1 of the two equals a run with this
# seed alone, up to rounding.

# %%
again = jaxae.load("runs/other_nets", experiment)
x = jnp.ones((1, 28, 28, 1))
print("equal codes of the loaded run:", bool((again.encode(x) == trained.encode(x)).all()))
alone = jaxae.fit(experiment, "digits", seed=1, **options)
print("test loss of seed 1 alone:", [line["loss"] for line in alone.history if line["split"] == "test"][-1])
