"""Regularized autoencoders (Ghosh, Sajjadi, Vergari, Black & Schoelkopf 2020): deterministic, with a smooth decoder.

They have no prior: a distribution of their codes is fitted after training, such as `jaxae.measure.mixture.fit`.
"""

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import per_example
from jaxae.core.types import Extra, Variables
from jaxae.variants import autoencoder

Penalty: TypeAlias = Literal["none", "l2", "gradient"]


def loss(
    model: autoencoder.Autoencoder, code_weight: float, penalty: Penalty = "none", penalty_weight: float = 0.0
) -> Loss:
    """|x - D(z)|^2 + code_weight |z|^2 / 2 + penalty_weight * penalty of the decoder D, with z = E(x).

    Ghosh et al. 2020, section 3. penalty: l2, the sum of squares of the decoder's parameters; gradient,
    |dD(z)/dz|_F^2 / 2, without bias from one product of the transposed Jacobian with standard normal noise per example.
    Terms: `loss`; `reconstruction`, squared error summed over the values of an example; `code`, |z|^2 / 2; `penalty`,
    unless it is none; all without their weights.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        z = model.apply(variables, batch.x, method="encode")
        decode: Any = lambda z: model.apply(variables, z, method="decode")  # noqa: E731
        x, pull = jax.vjp(decode, z)
        error, code = per_example((x - batch.x) ** 2), per_example(z**2) / 2  # type: ignore[operator]
        terms = {"reconstruction": error, "code": code}
        if penalty == "l2":
            squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(variables["params"]["decoder"])]
            terms["penalty"] = batch.repeat(jnp.sum(jnp.stack(squares)))
        if penalty == "gradient":
            terms["penalty"] = per_example(pull(batch.noise(key, x.shape[1:]))[0] ** 2) / 2
        total = error + code_weight * code
        if penalty != "none":
            total = total + penalty_weight * terms["penalty"]
        return {"loss": total, **terms}, {}

    return objective
