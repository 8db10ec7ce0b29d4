"""The loss of sparse autoencoders: squared error, penalty on the codes, auxiliary loss of dead latents."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import per_example
from jaxae.core.types import Extra, Variables
from jaxae.variants.dead_latents import auxiliary, unused_steps
from jaxae.variants.dictionary import STATISTICS, SparseAutoencoder, product

GAIN = 0.01  # of the controller of the coefficient, per step
DAMPING = 3.0  # weight of the difference between the current number of active latents and its moving average
RATE = 0.01  # of this moving average, per step


class Target(NamedTuple):
    """The number of active latents that the controller of the coefficient aims at, and the step at which it starts."""

    active: float
    start: float = 0


def warmup(coefficient: float | Float[Array, ""], steps: float) -> Weight:
    """The coefficient of the penalty at each step: a linear rise from 0 within the first `steps`."""
    return (lambda step: coefficient * jnp.minimum(step / steps, 1.0)) if steps else coefficient


def controlled(
    multiplier: Float[Array, ""],
    average: Float[Array, ""],
    active: Float[Array, ""],
    target: Target,
    step: Shaped[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Damped integral control: the coefficient's multiplier rises while too many latents are active.

    Its logarithm changes by `GAIN` times log(active / target) + `DAMPING` (log(active) - average), within [-1, 1],
    where the average is that of log(active). Without damping it would overshoot, since the number of active latents
    follows the coefficient with a delay. Returns the multiplier and the average.
    """
    now = jnp.log(jnp.maximum(active, 1e-6))
    average = jnp.where(step > target.start, average, now)
    error = jnp.clip(now - jnp.log(target.active) + DAMPING * (now - average), -1, 1)
    return (
        jnp.where(step >= target.start, multiplier * jnp.exp(GAIN * error), multiplier),
        average + RATE * (now - average),
    )


def loss(
    model: SparseAutoencoder,
    coefficient: Weight = 0.0,
    *,
    target: Target | None = None,
    levels: Sequence[int] = (),
    auxiliary_weight: float | Float[Array, ""] = 0.0,
    dead_after: int = 1000,
) -> Loss:
    """Squared error of scaled inputs, summed over their values, plus coefficient times the rule's penalty, plus AuxK.

    target: of a controller that multiplies the coefficient. levels: widths of Matryoshka's prefixes of the dictionary,
    increasing, without the complete one, which is always a prefix; the squared errors of all prefixes are added, each
    with the codes of one selection (Bussmann et al. 2025), and each prefix has the auxiliary loss of its own latents,
    those that are not in a smaller one. dead_after: steps without activity on the global batch after which a latent is
    dead.

    Terms: `loss`, the sum of `error`, the squared errors of all levels, and if any of `gate` (see `gated.py`),
    `penalty` and `auxiliary`, with their weights; `mse`, squared error in model units, mean over values; `active`,
    number of active latents (L0); `dead`, fraction of dead latents; with a target `coefficient`.
    """
    edges = [0, *levels, model.latent]

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:  # noqa: ARG001
        def method(name: str, *arguments: Any) -> Any:
            return model.apply(variables, *arguments, method=name)

        old, weights, x = variables[STATISTICS], method("weights"), method("scaled", batch.x)
        v = method("centred", x)
        z, own = model.rule.train(v, weights, batch) if batch.training else (model.rule.codes(v, weights), {})
        parts = [(z[:, a:b], weights.decoder[a:b]) for a, b in pairwise(edges)]
        residuals = [v]
        for codes, rows in parts:
            residuals.append(residuals[-1] - product(codes, rows, model.precision))
        errors = [per_example(residual**2) for residual in residuals[1:]]
        dead = old["unused"] >= dead_after
        terms = {"error": sum(errors[1:], errors[0])}
        if (gate := model.rule.error(v, weights)) is not None:
            terms["gate"] = gate
        if (penalty := model.rule.penalty(v, weights, z)) is not None:
            strength = batch.scheduled(coefficient) * old["multiplier"]
            terms["penalty"] = strength * penalty
        if not is_zero(auxiliary_weight):
            u = weights.preactivations(v)
            added = [
                auxiliary(u[:, a:b], residual, weights.decoder[a:b], dead[a:b], model.precision)
                for (a, b), residual in zip(pairwise(edges), residuals[1:], strict=True)
            ]
            terms["auxiliary"] = auxiliary_weight * sum(added[1:], added[0])
        terms["loss"] = sum(list(terms.values())[1:], terms["error"])
        active = per_example((z != 0).astype(jnp.float32))
        terms |= {
            "mse": errors[-1] / (x.shape[1] * old["scale"] ** 2),
            "active": active,
            "dead": batch.repeat(jnp.mean(dead)),
        }
        if target and penalty is not None:
            terms["coefficient"] = batch.repeat(jnp.asarray(strength))
        if not batch.training:
            return terms, {}
        statistics = {**old, **own, "unused": unused_steps(old["unused"], z, batch)}
        if target:
            statistics["multiplier"], statistics["average"] = controlled(
                old["multiplier"], old["average"], batch.mean(active), target, batch.step
            )
        return terms, {STATISTICS: statistics}

    return objective


def is_zero(weight: float | Float[Array, ""]) -> bool:
    """Whether a weight is the number 0; False for a traced weight."""
    return isinstance(weight, int | float) and weight == 0
