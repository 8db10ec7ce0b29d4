"""The trained model, as returned by `fit` and `load`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from jaxae.core.experiment import Experiment
from jaxae.core.types import Conditions, Extra, Params, Sampler, Scale, State, Variables
from jaxae.data import Split
from jaxae.training import apply, imputation, records, scores
from jaxae.training.apply import noise_keys
from jaxae.training.examples import (
    Examples,
    Given,
    chunk_of,
    condition_of,
    conditioned,
    corrupted,
    in_users_units,
    parts,
)
from jaxae.training.imputation import Imputed


@dataclass(frozen=True)
class Trained:
    """A trained model, or one for each of several seeds.

    history: a dictionary for every epoch and split ("train", "test", "valid") with `epoch`, `step`, `split` and the
    means of all terms; with several seeds each mean is a record of `seeds` (a list), `mean` and `std` (the sample
    standard deviation). Examples go in, and come out, in the user's units. Images are [N, H, W, C], or [N, H, W] when
    grey, uint8 or float in [0, 1]; floats are used as they are, whereas training and the command line round them to 256
    levels. Real numbers are scaled as the training data were; NaN marks a missing entry. For counts the results are
    expected counts, at the mean total of the training examples. Sequences are [N, T, D], padded ones with their lengths
    [N], or a list of [T, D]. A split of a `Dataset`, which is in model units, is passed as a whole:
    `model.score(data.test)`, not its array. Columns of a data frame are found by name. With several seeds every result
    has a leading axis of seeds, and `model[i]` is the model of one. A conditional model needs the condition of every
    example: y, its class as the data named it (or its index, if the names are no integers), and context, its covariates
    in the user's units, as a row or as {name: value}; either one for all examples or one for each. A split has its own.
    Decoding with another class gives counterfactuals: `model.decode(model.encode(data.test), y="8")`.
    """

    experiment: Experiment
    state: State  # with several seeds every leaf has a leading axis of seeds
    shape: tuple[int, ...]  # of one example
    seeds: range = range(1)
    history: Sequence[dict[str, Any]] = ()  # metrics of every epoch and split
    saver: Callable[..., None] | None = None  # what `save` calls with path and model
    scale: Scale | None = None  # from model units to the user's; None if they are the same
    real: bool = False  # real numbers or counts, not pixels in [0, 1]
    from_bytes: bool = True  # whether the data were uint8, divided by 255
    conditions: Conditions = field(default=Conditions())  # classes and covariates of the data
    features: tuple[str, ...] = ()  # names of the columns of a table
    fixed: Given = field(default=Given())  # condition of calls that pass none; see `under`

    def __repr__(self) -> str:
        """Model, shapes of an example and of its code, seeds, and epochs if known."""
        seeds = f"seed {self.seeds[0]}" if len(self.seeds) == 1 else f"seeds {self.seeds[0]} to {self.seeds[-1]}"
        epochs = f", epoch {self.history[-1]['epoch']}" if self.history else ""
        return f"Trained({type(self.experiment.model).__name__}, {self.shape} -> {self.code}, {seeds}{epochs})"

    def __getitem__(self, i: int) -> "Trained":
        """The model of one seed, counted from 0. IndexError if out of range."""
        seed = self.seeds[i]
        if len(self.seeds) == 1:
            return self
        state = jax.tree.map(lambda leaf: leaf[i], self.state)
        history = [records.of_seed(line, i) for line in self.history]
        return replace(self, state=state, seeds=range(seed, seed + 1), history=history)

    def __len__(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    def under(self, *, y: Any = None, context: Any = None) -> "Trained":
        """The model under one condition, for calls that pass none."""
        return replace(self, fixed=Given(y, context))

    def encode(
        self, x: Examples, lengths: Int[Any, " N"] | None = None, *, y: Any = None, context: Any = None
    ) -> Float[Array, "*S_N_code"]:
        """Codes, float32; deterministic: for variational models the posterior mean, or its image under a flow."""
        found = []
        for part in parts(self, x, lengths, Given(y, context)):
            if part.steps is not None and not self.experiment.sequences:
                raise ValueError(f"{type(self.experiment.model).__name__} is not for sequences; omit lengths")
            steps = () if part.steps is None else (part.steps,)
            found.append(self._apply("encode", part.x, *steps, *condition_of(self, part.y, part.context)))
        return jnp.concatenate(found, axis=int(self._several))

    def decode(
        self, z: Num[Any, "*S_N_code"], *, noise: Key[Array, " N"] | None = None, y: Any = None, context: Any = None
    ) -> Float[Array, "*S_N_D"]:
        """Examples from codes, float32, pixels in [0, 1]; with several seeds, codes may have a leading axis of seeds.

        noise: a key for each code, to sample from p(x|z) instead of taking its mean. ValueError for codes of another
        shape, and for noise with a model without a likelihood.
        """
        return self._decode(z, Given(y, context), noise)

    def _decode(
        self, z: Num[Any, "*S_N_code"], given: Given, noise: Key[Array, " N"] | None = None
    ) -> Float[Array, "*S_N_D"]:
        z = jnp.asarray(z, jnp.float32)
        own = len(self.seeds) > 1 and z.shape[:1] + z.shape[2:] == (len(self.seeds), *self.code)
        if not own and z.shape[1:] != self.code:
            raise ValueError(f"codes have shape {z.shape}, not [N, {', '.join(map(str, self.code))}]")
        count, size = z.shape[int(own)], chunk_of(self.shape)
        condition = condition_of(self, *conditioned(self, count, given))
        slices = [slice(i, i + size) for i in range(0, max(count, 1), size)]
        name, likelihood = ("decode", None) if noise is None else ("outputs", apply.likelihood_of(self))
        found = [
            self._apply(name, z[:, part] if own else z[part], *(c[part] for c in condition), own=own) for part in slices
        ]
        if noise is not None and likelihood is not None:
            pairs = zip(slices, found, strict=True)
            found = [apply.sampled(likelihood, self._several, noise[part], outputs) for part, outputs in pairs]
        return in_users_units(self, jnp.concatenate(found, axis=int(self._several)))

    def reconstruct(
        self, x: Examples, lengths: Int[Any, " N"] | None = None, *, y: Any = None, context: Any = None
    ) -> Float[Array, "*S_N_shape"]:
        """decode(encode(x)): float32, in the units of the data, pixels in [0, 1]."""
        if self.experiment.classes == "inferred":
            return in_users_units(self, apply.of_all(self, "reconstruct", x, Given(y, context)))
        z = self.encode(x, lengths, y=y, context=context)
        return self._decode(z, Given(y, context, x if isinstance(x, Split) else None))

    def classify(self, x: Examples, *, context: Any = None) -> Float[Array, "*S N K"]:
        """Probabilities of `conditions.classes`. ValueError for a model that, unlike m2, does not infer classes."""
        return apply.classified(self, x, context)

    def corrupted(self, x: Examples, first: int = 0) -> Float[Array, "N *shape"]:
        """Encoder inputs in training: with the noise or mask of the experiment, keyed by index, from `first` on."""
        return corrupted(self, x, first)

    def sample(
        self,
        key: Key[Array, ""],
        n: int,
        prior: Sampler | None = None,
        *,
        noise: bool = False,
        y: Any = None,
        context: Any = None,
    ) -> Float[Array, "*S_n_D"]:
        """n samples, the means of p(x|z) for codes z from the prior: float32, in the units of the data.

        prior: replaces the model's prior, as by `mixture.fit`. noise: sample from p(x|z) instead of taking its mean, as
        for synthetic data. y, context: condition of all samples, or of each. ValueError for a model without a prior,
        for noise with a model without a likelihood, and for a key that is not like `jax.random.key(0)`.
        """
        keys = noise_keys(key, n) if noise else None
        return self._decode(self.sample_codes(key, n, prior, y=y, context=context), Given(y, context), keys)

    def sample_codes(
        self, key: Key[Array, ""], n: int, prior: Sampler | None = None, *, y: Any = None, context: Any = None
    ) -> Float[Array, "*S_n_code"]:
        """The codes that `sample` decodes."""
        if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)) or n < 1:
            raise ValueError(f"sample takes a JAX key and a number: sample(jax.random.key(0), 64), not ({key}, {n})")
        if prior is not None:
            return prior(key, n)
        if self.experiment.prior is None:
            raise ValueError(
                f"{type(self.experiment.model).__name__} has no prior to sample from; fit one to its codes with "
                "jaxae.measure.mixture.fit, and pass it"
            )
        own = self.experiment.prior
        condition = condition_of(self, *conditioned(self, n, Given(y, context)))

        def codes(variables: Variables) -> Float[Array, "n *code"]:
            return own(variables, key, n, *condition)

        variables = jax.tree.map(jnp.asarray, self.variables)
        return jax.vmap(codes)(variables) if self._several else codes(variables)

    def terms(
        self, x: Examples, lengths: Int[Any, " N"] | None = None, *, y: Any = None, context: Any = None
    ) -> dict[str, Float[np.ndarray, "*S N"]]:
        """The terms of the loss of every example, by name, as the evaluation of a run computes them.

        Noise, such as posterior samples, depends on the index of an example.
        """
        found = [apply.terms_of(self, part) for part in parts(self, x, lengths, Given(y, context))]
        return {name: np.concatenate([terms[name] for terms in found], axis=-1) for name in found[0]}

    def score(
        self,
        x: Examples,
        by: str = "loss",
        lengths: Int[Any, " N"] | None = None,
        samples: int = 10,
        *,
        y: Any = None,
        context: Any = None,
        reference: Any = None,
    ) -> Float[np.ndarray, "*S N"]:
        """An anomaly score of every example; larger is more anomalous.

        by: a term of the loss, averaged over `samples` noise samples; reconstruction_error, the mean squared error of
        `reconstruct` over the observed entries, in squared model units; for a variational model negative_elbo, and
        negative_log_likelihood by importance sampling, with `samples` posterior samples, in nats (see `scores.bounds`),
        both of the observed entries, without a model of missingness;
        latent_distance, the squared Mahalanobis distance of the code to those of `reference`, usually the training
        split. All examples share the noise, so that equal examples have equal scores, in any order.
        ValueError for a score that the model does not have, and for latent_distance without a reference.
        """
        if (reference is None) == (by == scores.DISTANCE):
            fix = "; pass reference=, the training examples" if reference is None else " alone; omit it"
            raise ValueError(f"by={scores.DISTANCE} needs a reference{fix}")
        if reference is not None:
            codes = self.encode(x, lengths, y=y, context=context)
            return scores.latent_distance(self._several, np.asarray(codes), np.asarray(self.encode(reference)))
        each = [scores.of_part(self, part, by, samples) for part in parts(self, x, lengths, Given(y, context))]
        return np.concatenate(each, axis=-1)

    def evaluate(
        self, x: Examples, lengths: Int[Any, " N"] | None = None, *, y: Any = None, context: Any = None
    ) -> dict[str, Any]:
        """Means of the terms of the loss over these examples: a number each, or one per seed."""
        terms = self.terms(x, lengths, y=y, context=context)
        return {name: values.mean(-1, dtype=np.float64) for name, values in terms.items()}

    def impute(
        self,
        x: Any,
        samples: int = 10_000,
        *,
        draws: int = 0,
        mixture: bool = False,
        seed: int = 0,
        y: Any = None,
        context: Any = None,
    ) -> Imputed:
        """Fill in the missing entries (NaN) of examples, with a variational model whose losses mask them.

        Each becomes its expectation given the observed entries, by self-normalized importance sampling (Mattei &
        Frellsen 2019, section 3.3), with a standard error and a standard deviation; see `Imputed`. draws: number of
        multiple imputations. mixture: with several seeds, use the mixture of their distributions; the result then has
        no axis of seeds. seed: determines the samples, with the index of each example. A data frame gives a data
        frame: columns are found by name, and those that are not in the training table stay as they are.
        ValueError for a model without a likelihood, and for counts.
        """
        return imputation.impute(self, x, samples, draws, seed, mixture, Given(y, context))

    def save(self, path: str | Path) -> None:
        """Write a run directory that `jaxae.load` reads, and that the same call of `jaxae.fit` resumes.

        The model may be what `jaxae.fit` or `jaxae.load` returned, one seed of it, or a copy with another state, as
        from `dataclasses.replace(model, state=snapshot.state)`. ValueError for a model without a configuration, or one
        loaded without its Optax transformation or from a folder of safetensors, and for a folder that is not empty.
        """
        if self.saver is None:
            raise ValueError("the model has no configuration; save a model that jaxae.fit or jaxae.load returned")
        self.saver(Path(path), self)

    @cached_property
    def code(self) -> tuple[int, ...]:
        """Shape of one code."""
        sizes = [self.shape] if self.condition is None else [self.shape, (self.condition,)]
        ones = [jax.ShapeDtypeStruct((1, *size), jnp.float32) for size in sizes]
        encode = partial(apply.method, self.experiment.model, "encode", self._several, False)
        return jax.eval_shape(lambda *x: encode(self.variables, *x), *ones).shape[self._several + 1 :]

    @property
    def condition(self) -> int | None:
        """Length of a condition; None for an unconditional model."""
        return self.experiment.condition(self.conditions).size if self.experiment.conditional else None

    @property
    def params(self) -> Params:
        """Parameters, or their moving averages if any."""
        return self.variables["params"]

    @property
    def extra(self) -> Extra:
        """The other collections."""
        return self.state.extra

    @property
    def variables(self) -> Variables:
        """Parameters and the other collections, as Flax's `apply` takes them."""
        return self.state.variables

    @property
    def _several(self) -> bool:
        return len(self.seeds) > 1

    def _apply(self, name: str, *args: Any, own: bool = False) -> jax.Array:
        """Apply a method of the model. own: the first argument has an axis of seeds."""
        found: jax.Array = apply.method(self.experiment.model, name, self._several, own, self.variables, *args)
        return found
