"""Write the model of a finished or saved run in a portable format.

safetensors: its parameters and other variables as model.safetensors, with the config.json of the run; `jaxae.load`
reads the folder. That of a prior over codes also needs the run of its `--tokenizer`. Needs the extra `lm`
(`pip install 'jaxae[lm]'`).
stablehlo: its functions as programs in the format of jax.export, which need only JAX and flatbuffers: encode, decode,
reconstruct, score and, with a prior, sample. programs.json describes their inputs, which have the units of the data.
Needs the extra `export` (`pip install 'jaxae[export]'`).
onnx: the same functions as ONNX models, for onnxruntime and others, with results equal up to rounding. Needs the extra
`onnx` (`pip install 'jaxae[onnx]'`).
saelens: a sparse autoencoder as SAELens' folder of cfg.json and sae_weights.safetensors, which `jaxae.load` reads too.
Its inputs are in the units of the data, pixels in [0, 1]; the scaling of the data is folded into the weights. Needs the
extra `lm` (`pip install 'jaxae[lm]'`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, NoReturn

from jaxae import run
from jaxae.commands._apply import of_member, trained
from jaxae.commands._arguments import OneRun, parsed
from jaxae.commands._output import writing_folder
from jaxae.run import command_line, onnx, programs, saelens, tensors
from jaxae.training.trained import Trained


class Format(NamedTuple):
    """A format: a function that writes a model into a folder and describes it, and a file that marks the folder."""

    write: Callable[[Path, Trained], str]
    mark: str


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "stablehlo": Format(programs.write, programs.MARK),
        "onnx": Format(onnx.write, onnx.MARK),
        "safetensors": Format(tensors.write, tensors.WEIGHTS),
        "saelens": Format(saelens.write, saelens.WEIGHTS),
    }
)


@dataclass(frozen=True, kw_only=True)
class Options(OneRun):
    """Arguments of `jaxae export`."""

    format: Literal["safetensors", "stablehlo", "onnx", "saelens"]
    """Format to write."""
    out: Path
    """Folder to write."""
    member: int = -1
    """Index of the seed whose model is written, from 0 (-1: that of a run with one seed; safetensors: of all seeds)."""
    overwrite: bool = False
    """Replace the folder in --out."""


def main(argv: Sequence[str]) -> NoReturn:
    """Write the folder, and exit."""
    run.program(lambda _: export(parsed(Options, argv)))


def export(options: Options) -> str:
    """Write the folder, and return the line to print. InputError for models without this format."""
    model, chosen = of_member(trained(options), options.member), FORMATS[options.format]
    with command_line.flags_of(options), writing_folder(options.out, options.overwrite, chosen.mark) as folder:
        what = chosen.write(folder, model)
    return f"{what} model of {options.run} in the format of {options.format}: {options.out}"
