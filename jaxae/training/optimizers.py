"""Optimizers and learning rate schedules by name."""

import hashlib
import re
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from jaxae.core.batch import Batch
from jaxae.core.step import Transition
from jaxae.core.types import Metrics, Params, State

Name: TypeAlias = Literal["adam", "adamw", "adadelta", "adagrad", "lion", "momentum", "nadam", "rmsprop", "sgd"]
Decay: TypeAlias = Literal["constant", "cosine", "exponential", "linear"]
HASHED = "optax "  # prefix of fingerprints
FLOOR = 0.01  # fraction of the learning rate that an exponential schedule ends with


def optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    eps: float = 0.0,
    weight_decay: float = 0.0,
    clip: float = 0.0,
    skip: float = 0.0,
) -> optax.GradientTransformation:
    """An Optax optimizer.

    eps: the constant in the denominator (0: Optax's default for this optimizer).
    weight_decay: decoupled for adamw and lion (Loshchilov & Hutter 2019), an L2 penalty
    weight_decay / 2 |params|^2 for the others; of kernels only (see `kernels`). clip: largest global norm of the
    gradient (0: none). skip: global norm of the gradient above which an update is skipped (0: none; see `skipping`).
    ValueError for an unknown name, and for eps with an optimizer that has none.
    """
    makers = {
        "adam": optax.adam,
        "adamw": optax.adamw,
        "adadelta": optax.adadelta,
        "adagrad": optax.adagrad,
        "lion": optax.lion,
        "momentum": optax.sgd,
        "nadam": optax.nadam,
        "rmsprop": optax.rmsprop,
        "sgd": optax.sgd,
    }
    if name not in makers:
        raise ValueError(f"optimizer={name} is unknown; use one of {', '.join(get_args(Name))}")
    options: dict[str, Any] = {"adadelta": {"rho": 0.95}, "momentum": {"momentum": 0.9}}.get(name, {})
    if eps:
        if name in ("lion", "momentum", "sgd"):
            raise ValueError(f"eps={eps} has no effect with optimizer={name}; omit it")
        options["eps"] = eps
    decoupled = name in ("adamw", "lion")
    if decoupled:
        options |= {"weight_decay": weight_decay, "mask": kernels}
    found = makers[name](learning_rate, **options)
    before = [optax.clip_by_global_norm(clip)] if clip else []
    if weight_decay and not decoupled:
        before.append(optax.add_decayed_weights(weight_decay, kernels))
    found = optax.chain(*before, found) if before else found
    return skipping(found, skip) if skip else found


class Skipping(NamedTuple):
    """State of an optimizer that skips updates."""

    skipped: Int[Array, ""]  # number of skipped updates
    inner: Any


def skipping(optimizer: optax.GradientTransformation, norm: float) -> optax.GradientTransformation:
    """The optimizer, skipping steps whose gradient has a global norm above `norm`; a skipped step changes nothing.

    Child 2021, section 4.2 and its code: such gradients of deep variational models are rare and harmful.
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        skip = optax.tree.norm(grads) > norm
        updates, inner = optimizer.update(grads, state.inner, params)
        updates = jax.tree.map(lambda update: jnp.where(skip, jnp.zeros_like(update), update), updates)
        inner = jax.tree.map(lambda old, new: jnp.where(skip, old, new), state.inner, inner)
        return updates, Skipping(state.skipped + skip, inner)

    return optax.GradientTransformation(lambda params: Skipping(jnp.int32(0), optimizer.init(params)), update)


def counted(transition: Transition, norm: float) -> Transition:
    """The transition with the metric `skipped`: 1 in a step that `skipping` skips, else 0, summed over its optimizers.

    ValueError for a transition without such an optimizer.
    """

    def count(opt_state: Any) -> Any:
        nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, Skipping))
        return sum(node.skipped for node in nodes if isinstance(node, Skipping))

    def init(params: Params) -> Any:
        opt_state = transition.init(params)
        if isinstance(count(opt_state), int):
            raise ValueError(f"skip={norm:g} has no effect: the experiment has an optimizer of its own; omit it")
        return opt_state

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        new, metrics = transition.step(state, batch, key)
        metrics["skipped"] = (count(new.opt_state) - count(state.opt_state)).astype(jnp.float32)
        return new, metrics

    return Transition(init, step)


def kernels(params: Params) -> Any:
    """Mask of the kernels: parameters with several axes longer than 1, unlike biases and norm scales."""
    return jax.tree.map(lambda leaf: sum(size > 1 for size in leaf.shape) > 1, params)


def normalized() -> optax.GradientTransformation:
    """Divide every array of the gradient by its norm, as the code of Tomczak & Welling 2018 does before Adam."""
    return optax.stateless(lambda grads, _: jax.tree.map(lambda g: g / (jnp.linalg.norm(g) + 1e-7), grads))


def fingerprint(transformation: optax.GradientTransformation) -> str:
    """Hash that identifies an Optax transformation in config.json.

    It hashes the traced update of a matrix and a vector, or the Python representation if that cannot be traced.
    """
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    try:
        text = str(jax.make_jaxpr(transformation.update)(params, transformation.init(params), params))
    except Exception:  # raised by a transformation that needs other parameters
        text = repr(transformation)
    return HASHED + hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", text).encode()).hexdigest()[:16]


def is_fingerprint(value: object) -> bool:
    """Whether the optimizer in a config.json is the hash of an Optax transformation."""
    return isinstance(value, str) and value.startswith(HASHED)


def schedule(name: str, learning_rate: float | jax.Array, steps: int, warmup_steps: int = 0) -> optax.ScalarOrSchedule:
    """The learning rate at each training step: a linear warm-up from 0, then constant, or a decay to the last step.

    cosine and linear decay to 0, exponential to a hundredth. ValueError for an unknown name, and for a
    warm-up that leaves no step for the decay.
    """
    rest = steps - warmup_steps
    if name == "constant":
        after: optax.ScalarOrSchedule = learning_rate
    elif name not in get_args(Decay):
        raise ValueError(f"schedule={name} is unknown; use one of {', '.join(get_args(Decay))}")
    elif rest <= 0:
        raise ValueError(f"warmup_steps={warmup_steps} leaves none of {steps} steps for schedule={name}; use fewer")
    elif name == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, rest)
    elif name == "linear":
        after = optax.linear_schedule(learning_rate, 0.0, rest)
    else:
        after = optax.exponential_decay(learning_rate, rest, FLOOR)
    if not warmup_steps:
        return after
    rising = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([rising, after if callable(after) else optax.constant_schedule(after)], [warmup_steps])
