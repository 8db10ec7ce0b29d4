"""Deep support vector data description (Ruff et al. 2018): an encoder that maps the data close to a centre."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from jaxae import nets
from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import mean_over_observed, per_example
from jaxae.core.step import Transition, descend
from jaxae.core.types import Extra, Metrics, State, Variables
from jaxae.variants.autoencoder import Autoencoder

LEAST = 0.1  # smallest |c_k|, as in the authors' code, since the encoder can always output the code 0


class DeepSVDD(Autoencoder, kw_only=True):
    """An autoencoder with the centre c of its codes, the variable `value` of the collection `centre`.

    The encoder has no biases and no bounded activation: with either, the constant code c is a solution (propositions 2
    and 3). The decoder is for pretraining only.
    """

    latent: int  # number of latent dimensions

    def setup(self) -> None:
        self.centre = self.variable("centre", "value", jnp.zeros, (self.latent,))


def dense(shape: tuple[int, ...], hidden: tuple[int, ...], latent: int, **options: Any) -> tuple[nets.MLP, nets.MLP]:
    """Encoder without biases and decoder of dense layers. Arguments as in `autoencoder.dense`."""
    encoder = nets.MLP(hidden, (latent,), axes=len(shape), use_bias=False, **options)
    return encoder, nets.MLP(hidden[::-1], shape, **options)


def loss(model: DeepSVDD) -> Loss:
    """Squared distance of the code to the centre (Ruff et al. 2018, equation 4, whose weight decay is the optimizer's).

    Terms: `loss`; `mse`, squared error of the decoder, mean over observed entries; `code`, mean |z| over latent
    dimensions.
    """

    def terms(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:  # noqa: ARG001
        found: Any = model.apply(variables, batch.x)
        z, before = found
        return {
            "loss": per_example((z - variables["centre"]["value"][None]) ** 2),
            "mse": mean_over_observed((model.output(before) - batch.x) ** 2, batch.observed),
            "code": per_example(jnp.abs(z)) / z[0].size,
        }, {}

    return terms


def centre(model: DeepSVDD, examples: Float[np.ndarray, "N *D"]) -> Transition:
    """One step that moves the centre to the mean code of these examples, with |c_k| at least `LEAST`, and nothing else.

    In `phases`, before the steps that minimise `loss`.
    """
    still = descend(loss(model), optax.set_to_zero(), wrt=("encoder",))  # reports the metrics

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        codes: Any = model.apply({"params": state.params, **state.extra}, jnp.asarray(examples), method="encode")
        mean = codes.mean(0)
        value = jnp.where(mean < 0, jnp.minimum(mean, -LEAST), jnp.maximum(mean, LEAST))
        return still.step(state._replace(extra={**state.extra, "centre": {"value": value}}), batch, key)

    return Transition(still.init, step)
