"""Write the model of a finished run as a folder for the Hugging Face hub.

DIR holds model.safetensors, config.json and metrics.jsonl, which `jaxae.load` reads, the figures of the run, and a
model card, README.md. Absolute paths in config.json become names. `hf upload USER/NAME DIR` of huggingface_hub uploads
it. A prior over the codes of another run (--tokenizer) cannot be shared. Needs the extra `lm`
(`pip install 'jaxae[lm]'`).
"""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro
from tyro.conf import Positional

from jaxae import run
from jaxae.commands._apply import trained
from jaxae.commands._arguments import OneRun, module_of, parsed
from jaxae.commands._docstrings import fields
from jaxae.commands._output import writing_folder
from jaxae.data import words
from jaxae.errors import InputError
from jaxae.report.html import figure
from jaxae.run import command_line, directory, results, tensors
from jaxae.run.find import find, names
from jaxae.training import records

CARD, FIGURES = "README.md", "figures"
LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"


@dataclass(frozen=True, kw_only=True)
class Options(OneRun):
    """Arguments of `jaxae share`."""

    out: Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]
    """Folder to write."""
    license: str = ""
    """License of the model card, such as mit or cc-by-4.0. (default: left open)"""
    overwrite: bool = False
    """Replace the folder DIR."""


def main(argv: Sequence[str]) -> NoReturn:
    """Write the folder, and exit."""
    run.program(lambda _: share(parsed(Options, argv)))


def share(options: Options) -> str:
    """Write the folder, and return the line to print.

    InputError as for `jaxae export --format safetensors`, and for a prior over the codes of another run.
    """
    model = trained(options)
    if tokenizer := directory.read(options.run / "config.json")["config"].get("tokenizer"):
        raise InputError(
            f"{options.run}: its model also needs the run of its tokenizer, {tokenizer}, which the folder would lack; "
            "share a run without --tokenizer"
        )
    with command_line.flags_of(options), writing_folder(options.out, options.overwrite, tensors.WEIGHTS) as folder:
        tensors.write(folder, model)
        saved = _without_folders(folder / "config.json")
        pictures = [path for path in sorted((options.run / FIGURES).glob("*.png")) if path.is_file()]
        if pictures:
            (folder / FIGURES).mkdir()
        for path in pictures:
            shutil.copyfile(path, folder / FIGURES / path.name)
        tested = [line for line in model.history if line["split"] == "test"]
        finished = (options.run / "result.json").exists()
        metrics = results.read(options.run)["metrics"] if finished else ({}, *tested)[-1]
        text = card(saved, metrics, [path.stem for path in pictures], _documentation(options, saved), options.license)
        (folder / CARD).write_text(text, encoding="utf-8")
    missing = "" if options.license else f"; its {CARD} states no license"
    return f"{options.run} as a folder for the Hugging Face hub: {options.out}{missing}"


def card(
    saved: dict[str, Any], metrics: records.Record, pictures: Sequence[str], about: dict[str, str], terms: str = ""
) -> str:
    """A model card. saved: contents of config.json. pictures: names of figures. about: fields of the docstring.

    terms: the license.
    """
    name, of, data = saved["experiment"].removesuffix(".py"), saved["config"], saved["data"]
    title = f"{name} on {Path(of['data']).name}"
    head = ["library_name: jaxae", "tags:", "- autoencoder", "- jax", "- flax"]
    head.insert(0, f"license: {terms}" if terms else f"# license: choose one of {LICENSES}")
    kind = words(data.get("kind", "image")).examples
    counts = ", ".join(f"{data[split]:,} for {split}" for split in ("train", "test", "valid") if split in data)
    facts = [f"- Data: {of['data']}, {kind} of shape {[*data['shape']]}: {counts}"]
    if data["classes"]:
        facts.append(f"- Classes: {', '.join(map(str, data['classes']))}")
    facts += [f"- {key}: {about[key]}" for key in ("Source",) if key in about]
    versions = ", ".join(f"{package} {saved['versions'][package]}" for package in ("jaxae", "jax", "flax"))
    facts += [f"- Device: {saved['device']['count']} x {saved['device']['kind']}", f"- Versions: {versions}"]
    if saved.get("git"):
        facts.append(f"- Commit: {saved['git']}")
    rows = [f"| {metric} | {figure(metrics[metric])} |" for metric in records.names(metrics)]
    seeds = f", mean and standard deviation over {of['seeds']} seeds" if of["seeds"] > 1 else ""
    parts = [
        "\n".join(["---", *head, "---"]),
        f"# {title}",
        f"{about['Idea']}." if "Idea" in about else "",
        "\n".join(facts),
        f"```sh\n{saved['command']}\n```" if saved["command"] else "",
        '```python\nimport jaxae\n\nmodel = jaxae.load("DIR")  # this folder\ncodes = model.encode(x)\n```',
        f"Of the test split{seeds}:" if rows else "",
        "\n".join(["| metric | value |", "|---|---|", *rows]) if rows else "",
        *(f"![{name}]({FIGURES}/{name}.png)" for name in pictures),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _documentation(options: Options, saved: dict[str, Any]) -> dict[str, str]:
    """The fields of the docstring of the experiment; none for an experiment that is an object."""
    name = saved["experiment"]
    module = module_of(options) or (find(name) if name in names() else None)
    return fields(module.__doc__ or "") if module and module.__doc__ else {}


def _without_folders(file: Path) -> dict[str, Any]:
    """The contents of config.json, in which names replace absolute paths, also in the file."""
    saved = directory.read(file)
    saved["config"] = {name: _short(value) for name, value in saved["config"].items()}
    saved["command"] = shlex.join(map(_short, shlex.split(saved["command"])))
    records.write_json(file, saved)
    return saved


def _short(value: Any) -> Any:
    """The name of an absolute path; any other value as it is."""
    if isinstance(value, list):
        return [_short(part) for part in value]
    absolute = isinstance(value, str) and (value.startswith("~/") or Path(value).is_absolute())
    return Path(value).name or value if absolute else value
