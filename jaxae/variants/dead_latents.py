"""Dead latents of a sparse autoencoder: their counts, the auxiliary loss that trains them, and their resampling."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxae.core.batch import Batch
from jaxae.core.divergences import per_example
from jaxae.core.seeds import in_any_seed
from jaxae.core.step import Transition
from jaxae.core.types import Metrics, Params, State
from jaxae.variants.dictionary import STATISTICS, SparseAutoencoder, norms, product
from jaxae.variants.top_k import is_largest

SMALLER = 0.2  # norm of a resampled encoder column, relative to those of latents that are not dead


def unused_steps(unused: Int[Array, " n"], z: Float[Array, "B n"], batch: Batch) -> Int[Array, " n"]:
    """Steps since each latent was last active on the global batch."""
    fired = batch.mean((z != 0).astype(jnp.float32)) > 0
    return jnp.where(fired, 0, unused + 1)


def auxiliary(
    u: Float[Array, "B n"],
    residual: Float[Array, "B d"],
    decoder: Float[Array, "n d"],
    dead: Bool[Array, " n"],
    precision: str = "float32",
) -> Float[Array, " B"]:
    """AuxK: squared error of the residual's reconstruction by the k dead latents with the largest pre-activations u.

    k = d / 2, and the error is multiplied by min(number of dead latents / k, 1). The residual of the reconstruction has
    no gradient (Gao et al. 2024, A.2). Pre-activations are not rectified, so that negative ones have a gradient, as in
    sparsify and SAELens. The loss is 0 without dead latents.
    """
    k = max(residual.shape[1] // 2, 1)
    target = jax.lax.stop_gradient(residual)

    def error(u: Float[Array, "B n"], decoder: Float[Array, "n d"]) -> Float[Array, " B"]:
        hidden = jnp.where(dead[None], u, -jnp.inf)
        kept = dead[None] & is_largest(hidden, k) if len(decoder) > k else jnp.broadcast_to(dead, u.shape)
        weight = jnp.minimum(dead.sum() / k, 1.0)
        return weight * per_example((target - product(jnp.where(kept, u, 0), decoder, precision)) ** 2)

    def none(u: Float[Array, "B n"], decoder: Float[Array, "n d"]) -> Float[Array, " B"]:  # noqa: ARG001
        return jnp.zeros(len(u), u.dtype)

    return jax.lax.cond(in_any_seed(dead.any()), error, none, u, decoder)


def resampled(transition: Transition, model: SparseAutoencoder, every: int) -> Transition:
    """The transition, with dead latents resampled every `every` steps (Bricken et al. 2023, appendix).

    A latent that was not active for `every` steps gets a decoder row and an encoder column in the direction of an
    example of the batch, sampled with a probability proportional to its squared loss; the column has 0.2 times the
    mean norm of the columns of latents that are not dead, and the bias is 0. Its optimizer state is reset. The source
    samples from 819,200 examples, this function from the batch, without replacement unless there are more dead latents
    than examples.
    """

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        within, own = jax.random.split(key)
        new, metrics = transition.step(state, batch, within)
        dead = (new.extra[STATISTICS]["unused"] >= every) & ((state.step + 1) % every == 0)

        def change(new: State) -> State:
            return reinitialised(new, model, batch, dead, own)

        return jax.lax.cond(in_any_seed(dead.any()), change, lambda new: new, new), metrics

    return transition._replace(step=step)


def reinitialised(
    state: State, model: SparseAutoencoder, batch: Batch, dead: Bool[Array, " n"], key: Key[Array, ""]
) -> State:
    """The state with dead latents re-initialised from the batch (see `resampled`)."""

    def method(name: str, x: Float[Array, "B *D"]) -> Any:
        return model.apply(state.variables, x, method=name)

    x = method("scaled", batch.x)
    v = batch.gather(method("centred", x))
    error = batch.gather(per_example((x - method("scaled", method("__call__", batch.x))) ** 2))
    # Gumbel top-k trick: the order of sampling without replacement.
    order = jnp.argsort(-(2 * jnp.log(error) + jax.random.gumbel(key, error.shape)))
    rows = v[order[(jnp.cumsum(dead) - 1) % len(order)]]
    rows = rows / norms(rows)[:, None]
    alive = jnp.where(dead & ~dead.all(), 0.0, 1.0)  # if all are dead, the mean is over all

    def mean_norm(vectors: Float[Array, "n d"]) -> Float[Array, ""]:
        return jnp.dot(alive, norms(vectors)) / alive.sum()

    fresh = {"decoder": mean_norm(state.params["decoder"]) * rows}
    if "encoder" in state.params:
        fresh["encoder"] = SMALLER * mean_norm(state.params["encoder"].T) * rows.T
        fresh["encoder_bias"] = jnp.zeros(len(dead))
    for name, value in model.rule.parameters.items():
        fresh[name] = jnp.full(len(dead), value)

    def replace(params: Params, values: Params) -> Params:
        """Parameters, or moments of them, with these values of the dead latents."""
        masks = {
            name: dead[:, None] if name == "decoder" else dead[None] if name == "encoder" else dead for name in fresh
        }
        return {**params, **{name: jnp.where(masks[name], values[name], params[name]) for name in fresh}}

    def of_params(part: object) -> bool:
        return isinstance(part, dict) and part.keys() == state.params.keys()

    zeros = jax.tree.map(jnp.zeros_like, fresh)
    opt_state = jax.tree.map(
        lambda part: replace(part, zeros) if of_params(part) else part, state.opt_state, is_leaf=of_params
    )
    statistics = state.extra[STATISTICS]
    extra = {**state.extra, STATISTICS: {**statistics, "unused": jnp.where(dead, 0, statistics["unused"])}}
    return state._replace(params=replace(state.params, fresh), opt_state=opt_state, extra=extra)
