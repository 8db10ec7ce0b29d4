"""Folding of the input scale and the units of the data into the weights of a sparse autoencoder, and its inverse."""

from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxae.core.types import Params, Scale, Variables
from jaxae.variants.dictionary import STATISTICS, SparseAutoencoder, Weights

PARAMETERS = ("encoder", "encoder_bias", "decoder")


def fold(
    model: SparseAutoencoder, variables: Variables, scale: Scale | None = None
) -> tuple[SparseAutoencoder, Variables]:
    """A model with input scale 1 and no rescaling, whose inputs are in the user's units, with the same codes.

    With inputs s (x - offset) / factor, the weights become W / f, D f and offset + f c for f = factor / s. scale: units
    of the data (default: model units). The reconstructions are in the user's units too.
    ValueError for tied weights and factors that differ between features.
    """
    variables = jax.tree.map(jnp.asarray, variables)  # those of a loaded model are NumPy arrays
    offset, factor = _units(model, scale)
    factor = factor / variables[STATISTICS]["scale"]
    weights: Weights = model.apply(variables, method="weights")  # type: ignore[assignment]
    own = {name: weights.own[name] for name in model.rule.parameters}
    folded = {**{name: getattr(weights, name) for name in PARAMETERS}, **own}
    params = {name: folded[name] for name in variables["params"] if name != "decoder_bias"}
    params["decoder_bias"] = variables["params"]["decoder_bias"]
    statistics = {**variables[STATISTICS], "scale": jnp.ones(())}
    folded_variables = {**variables, "params": _scaled(params, offset, factor), STATISTICS: statistics}
    return model.clone(rescaled=False), folded_variables


def unfold(
    model: SparseAutoencoder, variables: Variables, input_scale: float | Float[Array, ""], scale: Scale | None = None
) -> Variables:
    """The inverse of `fold`: variables with this input scale, for inputs in model units.

    model: the one that `fold` returned. Rescaled weights are not recovered: the decoder has norm 1.
    """
    offset, factor = _units(model, scale)
    factor = factor / input_scale
    statistics = {**variables[STATISTICS], "scale": jnp.asarray(input_scale, jnp.float32)}
    params = _scaled(variables["params"], -offset / factor, 1 / factor)
    return {**variables, "params": params, STATISTICS: statistics}


def _scaled(params: Params, offset: Float[Array, " d"], factor: Float[Array, " d"]) -> Params:
    """The parameters for inputs offset + factor * x in place of x."""
    changed = {
        "decoder": params["decoder"] * factor[None],
        "decoder_bias": offset + factor * params["decoder_bias"],
    }
    if "encoder" in params:
        changed["encoder"] = params["encoder"] / factor[:, None]
    return {**params, **changed}


def _units(model: SparseAutoencoder, scale: Scale | None) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """Offset and factor of every value of an example. ValueError if tied weights cannot have them."""
    if scale is None:
        return jnp.zeros(prod(model.shape)), jnp.ones(prod(model.shape))
    if model.rule.tied and np.unique(scale.factor).size > 1:
        raise ValueError("tied weights cannot be folded into units that differ between features; use scale=none")
    offset, factor = (np.broadcast_to(np.asarray(part, np.float32), model.shape).ravel() for part in scale)
    return jnp.asarray(offset), jnp.asarray(factor)
