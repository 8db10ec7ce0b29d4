"""The files of SAELens (github.com/decoderesearch/SAELens, version 6): `cfg.json` and `sae_weights.safetensors`."""

import importlib.metadata
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from jaxae.core.experiment import Experiment
from jaxae.core.step import descend
from jaxae.core.types import State
from jaxae.data import weights
from jaxae.errors import BROKEN_FILE, DAMAGED, InputError, first_line, input_errors
from jaxae.run.save import without_optimizer
from jaxae.training.trained import Trained
from jaxae.variants import dictionary_learning
from jaxae.variants.dictionary import STATISTICS, Rule, SparseAutoencoder
from jaxae.variants.folding import fold
from jaxae.variants.gated import Gated
from jaxae.variants.jump_relu import JumpReLU
from jaxae.variants.matching_pursuit import MatchingPursuit
from jaxae.variants.top_k import BatchTopK, TopK

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
# Fields of a matching pursuit that never stops before its last iteration.
ALL_ITERATIONS = MappingProxyType({"residual_threshold": 0, "stop_on_duplicate_support": False})
FORMAT = "6.0.0"  # the version that introduced this form of cfg.json
# Tensor of each parameter, by architecture. SAELens trains batchtopk models, and saves them as jumprelu.
COMMON = {"encoder": "W_enc", "encoder_bias": "b_enc", "decoder": "W_dec", "decoder_bias": "b_dec"}
THRESHOLD = {**COMMON, "threshold": "threshold"}
GATED = {**COMMON, "encoder_bias": "b_gate", "magnitude": "r_mag", "magnitude_bias": "b_mag"}
TIED = {name: COMMON[name] for name in ("decoder", "decoder_bias")}
TRAINED = ("batchtopk", "matryoshka_batchtopk")
TENSORS = MappingProxyType(
    {
        "standard": COMMON,
        "topk": COMMON,
        "jumprelu": THRESHOLD,
        "gated": GATED,
        "matching_pursuit": TIED,
        **dict.fromkeys(TRAINED, THRESHOLD),
    }
)

Arrays = dict[str, Float[np.ndarray, "..."]]


def is_folder(path: Path) -> bool:
    """Whether a path is a folder of SAELens."""
    return (path / WEIGHTS).is_file()


def write(folder: Path, model: Trained) -> str:
    """Write the model of one seed into an existing folder, and return its architecture there.

    Input scale, standardization and decoder norms are folded into the weights: inputs are examples [N, d] in the user's
    units, pixels in [0, 1], and codes those of `model.encode`. BatchTopK and Matryoshka models become `jumprelu`, with
    their threshold of inference for every latent.
    InputError for a model that is not a sparse autoencoder, several seeds, an activation rule that SAELens lacks,
    matching pursuit whose folded decoder rows do not have norm 1, and without the package `safetensors`.
    """
    sparse, seeds = model.experiment.model, len(model)
    if not isinstance(sparse, SparseAutoencoder):
        raise InputError(f"{type(sparse).__name__} is not a sparse autoencoder; use another format")
    if seeds > 1:
        raise InputError(f"the model has {seeds} seeds, but the format holds one; use member=0 to {seeds - 1}")
    architecture, own = _architecture(sparse.rule)
    with input_errors():
        folded, variables = fold(sparse, model.variables, model.scale)
    if folded.rule.tied and not _is_unit(variables["params"]["decoder"]):
        raise InputError(
            "matching pursuit in SAELens needs decoder rows of norm 1 in the units of the data; "
            "train with decoder_norm=unit, input_scale=none, scale=none"
        )
    values = {**variables["params"], **{name: variables[STATISTICS][name] for name in folded.rule.statistics}}
    if "threshold" in values:
        values["threshold"] = jnp.broadcast_to(values["threshold"], (sparse.latent,))
    arrays = {tensor: np.asarray(values[name], np.float32) for name, tensor in TENSORS[architecture].items()}
    weights.save(folder / WEIGHTS, arrays)
    config = {
        "architecture": architecture,
        "d_in": arrays["W_dec"].shape[1],
        "d_sae": sparse.latent,
        **own,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": FORMAT, "jaxae_version": importlib.metadata.version("jaxae")},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return architecture


def read(folder: Path, optimizer: optax.GradientTransformation | None = None) -> Trained:
    """The model in a folder of SAELens, of examples [N, d] in its units.

    optimizer: for further training; without one the model cannot be trained. The loss is the squared error, plus the
    L1 norm, the number of active latents or the terms of the gate with coefficient 0.
    InputError for an architecture that is not in `TENSORS`, for inputs that are normalized by numbers that the folder
    does not hold, for matching pursuit whose decoder rows do not have norm 1 or whose rule stops it before its last
    iteration, and for a folder that is not intact.
    """
    config = _config(folder)
    architecture, arrays = config["architecture"], weights.read(folder / WEIGHTS)
    try:
        params = _params(architecture, config, arrays)
        rule = _rule(architecture, config)
    except DAMAGED as error:
        raise InputError(f"{folder} cannot be read ({first_line(error)}); {BROKEN_FILE}") from None
    n, d = params["decoder"].shape
    model = SparseAutoencoder((d,), n, rule)
    loss = dictionary_learning.loss(model)
    train = descend(loss, optimizer or optax.identity())
    if optimizer is None:
        train = train._replace(step=without_optimizer)
    found = {name: jnp.asarray(value) for name, value in params.items()}
    initial = jax.jit(lambda x: model.init(jax.random.key(0), x)[STATISTICS])  # without the parameters
    state = State(jnp.int32(0), found, train.init(found), {STATISTICS: initial(jnp.zeros((1, d)))})
    return Trained(Experiment(model, train, loss), state, (d,), real=True, from_bytes=False)


def _architecture(rule: Rule) -> tuple[str, dict[str, Any]]:
    """The architecture of an activation rule, and its own fields of cfg.json. InputError if SAELens has none."""
    match rule:
        case TopK(active=active):
            return "topk", {"k": active, "rescale_acts_by_decoder_norm": False}
        case BatchTopK() | JumpReLU():
            return "jumprelu", {}
        case Gated():
            return "gated", {}
        case MatchingPursuit(active=active):
            return "matching_pursuit", {**ALL_ITERATIONS, "max_iterations": active}
    if type(rule) is not Rule:
        raise InputError(f"SAELens has no model with the codes of {type(rule).__name__}; use another format")
    return "standard", {}


def _rule(architecture: str, config: dict[str, Any]) -> Rule:
    """The activation rule of an architecture."""
    if architecture == "topk":
        return TopK(_positive(config, "k"))
    if architecture == "matching_pursuit":
        return MatchingPursuit(_positive(config, "d_in" if config["max_iterations"] is None else "max_iterations"))
    return {"standard": Rule(), "gated": Gated()}.get(architecture, JumpReLU())


def _positive(config: dict[str, Any], name: str) -> int:
    """A field of cfg.json. ValueError if it is not a positive integer."""
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"its {name} is {value}, not a positive integer")
    return value


def _is_unit(rows: Float[Any, "n d"]) -> bool:
    """Whether all rows have norm 1."""
    return bool(np.allclose(np.linalg.norm(rows, axis=1), 1, rtol=0, atol=1e-5))


def _config(folder: Path) -> dict[str, Any]:
    """The fields of cfg.json; adds the architecture, which old versions left out. InputError if not supported."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config.setdefault("architecture", "standard")
        activation = config.get("activation_fn", config.get("activation_fn_str", "relu"))
        if activation == "topk":
            config |= {"architecture": "topk", "k": config["activation_fn_kwargs"]["k"]}
        about: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "architecture": (config["architecture"], tuple(TENSORS)),
            "activation_fn": (activation, ("relu", "topk")),
            "normalize_activations": (config.get("normalize_activations") or "none", ("none",)),
            "finetuning_scaling_factor": (config.get("finetuning_scaling_factor", False), (False,)),
        }
        if config["architecture"] == "matching_pursuit":
            about |= {name: (config[name], (value,)) for name, value in ALL_ITERATIONS.items()}
    except DAMAGED as error:
        raise InputError(f"{folder / CONFIG} cannot be read ({first_line(error)}); {BROKEN_FILE}") from None
    for name, (value, allowed) in about.items():
        if value not in allowed:
            folds = name in ("normalize_activations", "finetuning_scaling_factor")
            fix = "fold it into the weights with SAELens" if folds else f"use {', '.join(map(str, allowed))}"
            raise InputError(f"{folder}: {name} {value!r} is not supported; {fix}")
    return dict(config)


def _params(architecture: str, config: dict[str, Any], arrays: Arrays) -> Arrays:
    """The parameters from the tensors. ValueError for missing or unknown tensors, and for wrong shapes."""
    if "log_threshold" in arrays:
        arrays["threshold"] = np.exp(arrays.pop("log_threshold"))
    if "topk_threshold" in arrays:
        arrays["threshold"] = np.full(arrays["b_enc"].shape, arrays.pop("topk_threshold"))
    if np.all(arrays.get("scaling_factor", 0) == 1):  # written by old versions
        del arrays["scaling_factor"]
    names = TENSORS[architecture]
    if different := set(names.values()) ^ set(arrays):
        raise ValueError(
            f"a {architecture} model has the tensors {', '.join(names.values())}; missing or unknown: {different}"
        )
    params = {name: arrays[tensor] for name, tensor in names.items()}
    n, d = params["decoder"].shape
    for name, value in params.items():
        expected = {"encoder": (d, n), "decoder": (n, d), "decoder_bias": (d,)}.get(name, (n,))
        if value.shape != expected:
            raise ValueError(f"tensor {names[name]} has shape {[*value.shape]}, not {[*expected]}")
    if "threshold" in params:  # SAELens also applies ReLU
        params["threshold"] = np.maximum(params["threshold"], 0)
    if architecture == "matching_pursuit":
        if not _is_unit(params["decoder"]):
            raise ValueError("matching pursuit needs decoder rows of norm 1")
        if not config.get("apply_b_dec_to_input", True):
            params["decoder_bias"] = np.zeros_like(params["decoder_bias"])  # SAELens then leaves it out of the decoder
    elif not config.get("apply_b_dec_to_input", True):  # x W + b = (x - c) W + b + c W
        centre = params["decoder_bias"] @ params["encoder"]
        params["encoder_bias"] = params["encoder_bias"] + centre
        if architecture == "gated":
            params["magnitude_bias"] = params["magnitude_bias"] + np.exp(params["magnitude"]) * centre
    if architecture in ("topk", *TRAINED) and config.get("rescale_acts_by_decoder_norm", False):
        norm = np.linalg.norm(params["decoder"], axis=1)
        params["encoder"], params["encoder_bias"] = params["encoder"] * norm, params["encoder_bias"] * norm
        params["decoder"] = params["decoder"] / norm[:, None]
    return params
