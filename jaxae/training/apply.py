"""Compiled calls of a trained model, for one seed or for several."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.types import State, Variables
from jaxae.likelihoods import Likelihood
from jaxae.training.examples import Examples, Given, Model, Part, condition_of, parts
from jaxae.training.start import TEST, folded
from jaxae.training.start import keys as start_keys


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def method(
    model: nn.Module, name: str, several: bool, own: bool, variables: Variables, first: jax.Array, *others: jax.Array
) -> jax.Array:
    """Apply a method of the model. several: the variables have an axis of seeds. own: so has the first argument."""

    def apply(variables: Variables, *args: jax.Array) -> Any:
        return model.apply(variables, *args, method=name)

    axes = (0, 0 if own else None, *(None for _ in others))
    result: jax.Array = (jax.vmap(apply, in_axes=axes) if several else apply)(variables, first, *others)
    return result


def of_all(trained: Model, name: str, x: Examples, given: Given) -> jax.Array:
    """A method (x, condition) of a conditional model, for all examples; with several seeds a leading axis of seeds."""
    several = len(trained.seeds) > 1
    call = partial(method, trained.experiment.model, name, several, False, trained.variables)
    found = [call(part.x, *condition_of(trained, part.y, part.context)) for part in parts(trained, x, given=given)]
    return jnp.concatenate(found, axis=int(several))


def classified(trained: Model, x: Examples, context: Any) -> jax.Array:
    """See `Trained.classify`."""
    if trained.experiment.classes != "inferred":
        raise ValueError(f"{type(trained.experiment.model).__name__} infers no classes; use m2")
    return of_all(trained, "classify", x, Given(None, context))


@partial(jax.jit, static_argnums=(0, 1))
def terms(loss: Loss, several: bool, state: State, batch: Batch, key: Any) -> dict[str, Any]:
    """The terms of a loss for every example. several: state and key have an axis of seeds."""

    def one(state: State, key: Key[Array, ""]) -> Terms:
        return loss(state.variables, batch.replace(step=state.step), key)[0]

    return (jax.vmap(one) if several else one)(state, key)


def likelihood_of(model: Model) -> Likelihood:
    """The likelihood of a variational model. ValueError for another model."""
    net = model.experiment.model
    if not isinstance(found := getattr(net, "likelihood", None), Likelihood):
        raise ValueError(f"{type(net).__name__} has no likelihood to sample from; omit noise")
    return found


def noise_keys(key: Key[Array, ""], n: int) -> Key[Array, "{n}"]:
    """Noise keys of n samples whose codes are sampled with this key."""
    return jax.random.split(jax.random.fold_in(key, 1), n)


@partial(jax.jit, static_argnums=(0, 1))
def sampled(
    likelihood: Likelihood, several: bool, keys: Key[Array, " B"], outputs: Float[Array, "*S_B_P"]
) -> Float[Array, "*S_B_D"]:
    """A sample from p(x|z) for each decoder output, with the same keys for all seeds."""

    def one(key: Key[Array, ""], output: Float[Array, "*P"]) -> Float[Array, "*D"]:
        return likelihood.sample(key, output[None])[0]

    each = jax.vmap(one)
    found: jax.Array = (jax.vmap(each, (None, 0)) if several else each)(keys, outputs)
    return found


def terms_of(model: Model, part: Part, draw: int | None = None) -> dict[str, Float[np.ndarray, "*S n"]]:
    """The terms of the loss of a part. draw: index of the noise sample that all examples share; None: each its own."""
    keys, count, several = start_keys(model.seeds, TEST), len(part.x), len(model.seeds) > 1
    if draw is not None:
        keys = folded(keys, draw)
    index = part.first + jnp.arange(count) if draw is None else jnp.zeros(count, jnp.int32)
    ones, step = jnp.ones(count), jnp.int32(0)
    batch = Batch(part.x, index, ones, step, part.mask, part.y, part.context, training=False)
    found: dict[str, Any] = jax.device_get(terms(model.experiment.evaluate, several, model.state, batch, keys))
    return found
