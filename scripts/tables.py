"""Write experiments/README.md from results.json and the docstrings of the experiments.

The page shows the first sentence of each docstring, `Source:` and the optional `Group:`, `Published:` and `Measured:`.
Its last part, `evaluations.md` beside this file, is written by hand.
"""

import re
import shlex
from pathlib import Path
from typing import Any

from jaxae.commands._docstrings import fields
from jaxae.experiments import stacked
from jaxae.report import html
from jaxae.run import command_line

# In the order of the page. The last group is the default.
GROUPS = {
    "plain": "Dense networks trained on the reconstruction error alone.",
    "convolutional and recurrent": "Convolutional and recurrent networks trained on the reconstruction error alone.",
    "denoising and masked": "The input is corrupted or partly hidden; the target is the original.",
    "regularized": "A penalty or a constraint on the latent code, or on the Jacobian of the encoder.",
    "sparse dictionaries": "A linear decoder of sparse codes, as trained on the activations of language models ([all "
    "metrics](#recovered-dictionaries)).",
    "variational": "The objective is a lower bound on the log-likelihood; bounds, priors and data differ.",
    "semi-supervised": "Few training examples have a class; the others contribute to the bound.",
    "single cells": "Gene counts of single cells, with batches as covariates ([all scores](#counts-of-cells)).",
    "missing data": "Importance weighted bounds on the observed entries of examples; the others are imputed ([errors]"
    "(#missing-values)).",
    "disentangled": "A larger weight on the KL term or on the total correlation, so that each latent dimension carries "
    "one factor of variation ([all scores](#factors-of-variation)).",
    "quantized": "Discrete latent codes, from a learned codebook or a fixed grid.",
    "adversarial and MMD": "A discriminator or the maximum mean discrepancy (MMD) matches the aggregate posterior to "
    "the prior.",
    "anomalies": "Each example, such as a row of a table, gets a score of how anomalous it is.",
    "other": "Experiments whose docstring names none of these groups.",
}
HEAD = """# Experiments

Each experiment is one file: a docstring with source and command, a `Config` and a `build`. A new experiment is a file
here (the top-level README has a complete example); an entry in results.json is optional, as are the lines `Group:`,
`Published:` and `Measured:` of the docstring, which this page shows. An experiment may import every module of jaxae but
the commands, and other experiments. Start with `simple.py` and `vae.py`.

## Published and measured

The tables are made from [results.json](results.json), the results of

    python scripts/reproduce.py

which runs the command in the docstring of each experiment, on the full MNIST (60,000 training and 10,000 test images)
unless the table names other data. Measured results are for the test split: mean ± standard deviation over seeds
trained in one program, or one seed. BCE (binary cross-entropy) and MSE are means over pixels; likelihoods, evidence
lower bounds (ELBO) and reconstruction terms are in nats per image; code is the mean |z| over latent dimensions. An
expected result such as `loss ≤ 104`, from the source or set for this project, is reached if the mean is within the
bound. Time is the training time of all seeds together, on {device}, possibly shared with other programs.
[H100.md](H100.md) has the same experiments on a GPU.
"""
COLUMNS = ("model", "published", "measured", "epochs × seeds", "time", "pictures")  # noqa: RUF001
PLANES = """
## Defects of a 2-D latent space

Lower is better; the table head has the ideal values. `unequal_areas` is the standard deviation of log area over
classes; `asymmetry` is about the origin; `holes` is the fraction of samples with no code nearby, from a normal
distribution fitted to the codes; `roughness` is squared slope over variance of decoded images. The formulas are in
`jaxae/measure/plane.py`.

| experiment | unequal areas (0) | asymmetry (0) | holes (0.01) | roughness (1) |
|---|---|---|---|---|
"""
# Tables of the measures other than metrics: columns and text.
TABLES = {
    "reconstruction_quality": (
        ("mse", "shift_mse", "ssim"),
        """
## Reconstruction quality

Test images are compared with their reconstructions by the first seed: `mse`, `shift_mse` (the minimum over shifts by up
to two pixels) and `ssim`, the structural similarity.
""",
    ),
    "likelihood": (
        ("log_likelihood", "monte_carlo_error", "ess", "active_units", "rate", "distortion", "bits_per_dim"),
        """
## Likelihoods

Estimates on the test split by importance sampling (`--log-likelihood-samples K`; `jaxae/measure/likelihood.py`), in
nats per image: the log-likelihood and its Monte Carlo error, the effective sample size of the K samples, active latent
dimensions, rate and distortion (their sum is minus the evidence lower bound), and bits per dimension.
""",
    ),
    "classification": (
        ("error",),
        """
## Classification errors

Percentage of test examples whose most probable class under q(y|x) is not their own (`jaxae/measure/classification.py`).
""",
    ),
    "integration": (
        ("silhouette_type", "knn_type", "silhouette_batch", "knn_batch"),
        """
## Integration of batches

Silhouettes of the codes of the test split, and the accuracy of their 15 nearest neighbours
(`jaxae/measure/integration.py`); those of types should be high, those of batches low.
""",
    ),
    "codebook": (
        ("perplexity", "usage"),
        """
## Codebooks

Measured on the test split: perplexity (exp of the entropy of code usage) and the fraction of codes in use (usage).
""",
    ),
    "dictionary": (
        ("l0", "explained_variance", "shrinkage", "dead", "dense", "mcc", "uniqueness", "precision", "recall", "f1"),
        """
## Recovered dictionaries

Metrics of sparse autoencoders on the test split (`jaxae/measure/dictionary.py`); those from `mcc` on compare latents
with the known features of synthetic data.
""",
    ),
    "disentanglement": (
        (
            *("mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness", "factor_vae_score"),
            "active_dimensions",
        ),
        """
## Factors of variation

Disentanglement scores on the known factors of sprites (`jaxae/measure/disentanglement.py`; 1 is best; constant codes
score 0, and 0.2 in the FactorVAE score), and the number of active latent dimensions; the FactorVAE score excludes the
others. Published results are for dSprites, which differs: see the sources above.
""",
    ),
}
STACKED = """
## Layer by layer, or end to end

The same network ({widths}), test loss, nats per pixel; the first two are `stacked`, the last is `deep`.

| greedy, {greedy} epochs per layer | then fine-tuned, {epochs} epochs in total | end to end, {deep_epochs} epochs |
|---|---|---|
| {before} | {after} | {deep} |
"""
FIGURE = re.compile(r"-?\d+\.\d+(?: ± [\d.e-]+)?")


def files(name: str, pictures: list[str]) -> dict[str, str]:
    """The files of an experiment's pictures: kind -> name."""
    return {kind: f"{name}-{kind}.png" if i else f"{name}.png" for i, kind in enumerate(pictures)}


def measured(found: dict[str, Any], text: str) -> str:
    """The metrics of an entry in the words of `text` (a docstring's `Measured`), and its bounds.

    If `text` is empty, or has a number that is not in the entry, the loss and every metric with an expected result.
    """
    words = re.split(r" over \w+ seeds| \(seed \d+\)", text)[0].replace("+-", "±")
    parts = [found["metrics"], *(found.get(key) or {} for key in TABLES)]
    recorded = {html.figure(value) for part in parts for value in part.values()}
    figures = set(FIGURE.findall(words))
    if not figures or figures - recorded:
        keys = dict.fromkeys(("loss", *found["expected"]))
        words = ", ".join(f"{key} {html.figure(found['metrics'][key])}" for key in keys)
    bounds = ", ".join(f"{key} {html.bound(value)}" for key, value in found["expected"].items())
    return words + {True: f" ({bounds}: reached)", False: f" ({bounds}: **not reached**)", None: ""}[found["reached"]]


def row(name: str, found: dict[str, Any], doc: dict[str, str]) -> str:
    """The table row of an entry, from its results and the fields of its docstring."""
    runs = f"{found['epochs']} × {found['seeds']}"  # noqa: RUF001
    pictures = files(name, found["pictures"]).items()
    cells = (
        f"[`{name}`]({name}.py): {doc['Idea']}",
        doc.get("Published", "-").rstrip("."),
        measured(found, doc.get("Measured", "")),
        runs if found["data"] == "mnist" else f"{runs}, {found['data']}",
        found["time"],
        " ".join(f"[![{kind} of {name}]({file})]({file})" for kind, file in pictures),
    )
    return f"| {' | '.join(cells)} |\n"


def source(name: str, doc: dict[str, str]) -> str:
    """The list item below the table: the source, and the remarks after the measured results."""
    _, *remarks = re.split(r"(?<=\.) (?=[A-Z])", doc.get("Measured", ""), maxsplit=1)
    return f"- `{name}`: {' '.join((doc['Source'], *remarks)).replace('+-', '±')}\n"


def groups(results: dict[str, Any], doc: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """Group -> names of its entries."""
    *named, other = GROUPS
    of = {name: doc[name].get("Group", other) for name in results}
    found = {group: [name for name in results if of[name] == group] for group in named}
    return found | {other: [name for name in results if of[name] not in named]}


def page(results: dict[str, dict[str, Any]], docstrings: dict[str, str]) -> str:
    """The page of these entries of results.json and the docstrings of their experiments."""
    doc = {name: fields(docstrings[name]) for name in results}
    devices = " and ".join(sorted({found["device"] for found in results.values()}))
    text = HEAD.format(device=devices)
    for group, names in groups(results, doc).items():
        if names:
            text += f"\n### {group[0].upper()}{group[1:]}\n\n{GROUPS[group]}\n\n"
            text += _head(COLUMNS) + "".join(row(name, results[name], doc[name]) for name in names)
            text += "\nSources and remarks:\n\n" + "".join(source(name, doc[name]) for name in names)
    return text + _measures(results) + (Path(__file__).parent / "evaluations.md").read_text("utf-8")


def _measures(results: dict[str, dict[str, Any]]) -> str:
    """The tables of the measures other than metrics."""
    text = ""
    planes = {name: found["plane"] for name, found in results.items() if found.get("plane")}
    if planes:
        rows = (f"| `{name}` | {' | '.join(f'{v:.3g}' for v in plane.values())} |\n" for name, plane in planes.items())
        text += PLANES + "".join(rows)
    if {"mirrored", "vae"} <= planes.keys():
        worse = [key for key, value in planes["vae"].items() if value >= planes["mirrored"][key]]
        but = f" except {', '.join(worse)}" if worse else ""
        text += f"\n`vae` scores better than `mirrored` on every metric{but}.\n"
    for key, (columns, about) in TABLES.items():
        measures = {name: found[key] for name, found in results.items() if found.get(key)}
        if measures:
            text += about + "\n" + _head(("experiment", *columns))
            for name, figures in measures.items():
                cells = (html.figure(figures[column]) if column in figures else "-" for column in columns)
                text += f"| `{name}` | {' | '.join(cells)} |\n"
    if {"stacked", "deep"} <= results.keys():
        text += _stacked(results["stacked"], results["deep"])
    return text


def _head(columns: tuple[str, ...]) -> str:
    return f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"


def _stacked(found: dict[str, Any], deep: dict[str, Any]) -> str:
    config: Any = command_line.parse(stacked.Config, "", shlex.split(found["command"])[2:])
    widths = (*config.hidden, config.latent)
    return STACKED.format(
        widths="-".join(map(str, (*widths, *widths[-2::-1]))),
        greedy=config.greedy,
        epochs=found["epochs"],
        deep_epochs=deep["epochs"],
        before=html.figure(found["greedy"]),
        after=html.figure(found["metrics"]["loss"]),
        deep=html.figure(deep["metrics"]["loss"]),
    )
