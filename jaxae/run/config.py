"""The fields of every experiment, and their JSON form in `config.json`."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import optax

from jaxae.data import augmentation
from jaxae.data.options import Options
from jaxae.errors import InputError, input_errors
from jaxae.training import optimizers
from jaxae.training.selection import Keep, Selection


@dataclasses.dataclass(frozen=True)
class Training:
    """Fields of the computation: epochs, seeds, precision."""

    epochs: int = 50
    """Passes over the training split."""
    batch_size: int = 100
    """Examples per step, over all devices."""
    init_from: str = ""
    """Run directory whose parameters initialise the model. (default: random parameters)"""
    keep: Keep = "last"
    """Model to return. last: that of the last epoch. best: that of the epoch with the smallest validation loss, see
    --valid."""
    stop_after: int = 0
    """Early stopping: epochs without a smaller validation loss after which training stops (0: no early stopping)."""
    seed: int = 0
    """Seed of all random numbers."""
    seeds: int = 1
    """Number of seeds (seed, seed + 1, ...), trained in one program."""
    reduction: Literal["fast", "reproducible"] = "fast"
    """Sums over the batch. reproducible: the same bits on 1, 2, 4 and 8 devices, but slower."""
    precision: Literal["float32", "mixed"] = "float32"
    """Floating-point precision. mixed: bfloat16 operands, float32 accumulation."""
    augment: tuple[augmentation.Name, ...] = ()
    """Data augmentation: random changes of training images, sampled again in every step: flip (left and right), crop
    (of the image padded by an eighth), colour (brightness, contrast, saturation), in this order."""


@dataclasses.dataclass(frozen=True)
class Optimization:
    """Fields of the optimizer."""

    optimizer: optimizers.Name = "adam"
    """Name of an Optax optimizer; in Python also an Optax transformation."""
    lr: float = 1e-3
    """Learning rate."""
    schedule: optimizers.Decay = "constant"
    """Learning rate schedule: cosine and linear decay to 0, exponential to a hundredth of --lr."""
    warmup_steps: int = 0
    """Steps of learning rate warm-up, linearly from 0 (0: none)."""
    eps: float = 0.0
    """Constant in the optimizer's denominator (0: Optax's default)."""
    weight_decay: float = 0.0
    """Weight decay of kernels: decoupled for adamw and lion, an L2 penalty for the others (0: none)."""
    clip: float = 0.0
    """Maximum global norm of the gradient (0: no clipping)."""
    skip: float = 0.0
    """Global norm of the gradient above which a step is skipped and the parameters stay unchanged; the metric skipped
    is the fraction of such steps (0: no step is skipped)."""
    ema: float = 0.0
    """Decay per step of the moving average of the parameters, which is evaluated and saved (0: none)."""


@dataclasses.dataclass(frozen=True)
class Folders:
    """Folders of the data."""

    data_dir: str = ""
    """Folder of prepared TFDS data sets. (default: that of TFDS)"""
    manual_dir: str = ""
    """Folder of downloaded archives, used instead of a download. (default: none)"""


@dataclasses.dataclass(frozen=True)
class Output:
    """Fields of the run directory: checkpoints, pictures, report."""

    workdir: str = ""
    """Run directory; an existing run in it is resumed. (default: runs/EXPERIMENT-DATA)"""
    checkpoint_every: int = 1
    """Epochs or steps between checkpoints, see --checkpoint-unit."""
    checkpoint_unit: Literal["epochs", "steps"] = "epochs"
    """Unit of --checkpoint-every."""
    picture_every: int = 0
    """Steps between pictures of ten reconstructions, besides those after epochs 1, 2, 5, 10, 20, ... and the last (0:
    only these)."""
    figures: Literal["all", "none"] = "all"
    """Pictures and report.html to write. none: neither."""
    overwrite: bool = False
    """Delete the run in --workdir, and start again."""
    track: Literal["none", "trackio", "wandb", "mlflow"] = "none"
    """Tracker of metrics, pictures and parameters, besides TensorBoard."""
    track_project: str = "jaxae"
    """Project (MLflow: experiment) of --track."""
    summary: bool = False
    """Print the layers of each net (name, output shape, parameters), and exit."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """Fields of devices and processes."""

    parallel: Literal["auto", "pmap", "jit", "fsdp"] = "auto"
    """Data parallelism on several devices: pmap, or jit with shardings; fsdp: jit with parameters and optimizer state
    sharded over the devices too. auto: pmap."""
    accumulate: int = 1
    """Gradient accumulation: microbatches per device, for less memory and the same result."""
    coordinator: str = ""
    """HOST:PORT of process 0, or auto for SLURM, Open MPI, Kubernetes and TPU pods. (default: no other processes)"""
    num_processes: int = 1
    """Number of processes."""
    process_id: int = 0
    """Index of this process; process 0 writes the run directory."""
    heartbeat: int = 60
    """Seconds without a heartbeat after which another process is considered lost."""
    patience: int = 300
    """Timeout in seconds for other processes, at start-up and in every dispatch."""
    device_data_limit: float = 0.0
    """GiB of data to hold on a device; splits that are larger in total are streamed (0: a quarter of its memory)."""


@dataclasses.dataclass(frozen=True)
class Config(Devices, Output, Folders, Optimization, Training, Options):
    """Fields of every experiment. An experiment adds its own: `class Config(run.Config): latent: int = 2`.

    `jaxae vae --help` documents each field.
    """

    def __post_init__(self) -> None:
        """Raise ValueError for an empty list or a number out of range."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == () and field.default != () and field.name not in ("hidden", "attention"):
                raise ValueError(f"{field.name}=() is empty; give at least one value")
            least = 0 if field.name == "picture_every" or field.default == 0 or isinstance(field.default, float) else 1
            for number in value if isinstance(value, tuple) else (value,):
                if type(number) is int and number >= 2**31:
                    raise ValueError(f"{field.name}={str(number)[:20]} must be below {2**31}")
                if type(number) in (int, float) and not least <= number < math.inf:
                    raise ValueError(f"{field.name}={str(number)[:20]} must be at least {least}")
        if self.seed + self.seeds > 2**31:
            raise ValueError(f"seed={self.seed} must be below {2**31 - self.seeds}")

    @property
    def selection(self) -> Selection:
        """Model selection and early stopping."""
        return Selection(self.keep, self.stop_after)


# Fields that may differ between the processes of one run.
OWN = ("data_dir", "manual_dir", "workdir", "process_id", "heartbeat", "patience")
# Fields of execution: folders, output, devices. A run may resume with other values; results change by rounding at most.
PLACE = tuple(field.name for part in (Folders, Output, Devices) for field in dataclasses.fields(part))

C = TypeVar("C", bound=Config)


def differences(old: dict[str, Any], new: dict[str, Any], ignored: Sequence[str] = PLACE) -> str:
    """Differing fields, except those in `ignored`, as text: `epochs=50 there, 10 here`."""
    names = [name for name in {**old, **new} if name not in ignored and old.get(name) != new.get(name)]
    return "; ".join(f"{name}={old.get(name)} there, {new.get(name)} here" for name in names)


def documented(config: Config) -> bool:
    """Whether all fields that define the experiment have their defaults, on any data."""
    free = (*PLACE, "data", "seed", "seeds", "precision", "reduction", "log_likelihood_samples")
    return all(getattr(config, f.name) == f.default for f in dataclasses.fields(config) if f.name not in free)


def flag(field: str) -> str:
    """`batch_size` -> `--batch-size`."""
    return "--" + field.replace("_", "-")


def to_json(config: Config) -> dict[str, Any]:
    """The fields as JSON values: tuples become lists, an Optax transformation its fingerprint."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if not isinstance(config.optimizer, str):
        values["optimizer"] = optimizers.fingerprint(config.optimizer)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def plain(value: Any) -> Any:
    """A value as a configuration holds it: lists as tuples, NumPy's numbers as Python's, paths as text."""
    if isinstance(value, list):
        return tuple(plain(part) for part in value)
    if isinstance(value, Path):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


def spelled(hint: Any) -> str:
    """A type as text."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    return getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)


def from_json(kind: type[C], fields: dict[str, Any]) -> C:
    """The config that `to_json` wrote, with `optax.identity()` for an Optax transformation.

    InputError for unknown or missing fields, or values of another type.
    """
    hints = hints_of(kind)
    if odd := set(hints) ^ set(fields):
        raise InputError(f"config.json: unknown or missing fields {sorted(odd)}; use the version that wrote it")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    hashed = {"optimizer": optax.identity()} if optimizers.is_fingerprint(values["optimizer"]) else {}
    for name, value in values.items():
        if name not in hashed and not fits(value, hints[name]):
            raise InputError(f"config.json: {name} is {value!r}; use the version that wrote it")
    with input_errors():
        return kind(**{**values, **hashed})


def hints_of(kind: type[Config]) -> dict[str, Any]:
    """The types of the fields."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a field."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(fits(part, get_args(hint)[0]) for part in value)
    return type(value) is hint or (hint is float and type(value) is int)
