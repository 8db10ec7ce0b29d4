"""Time ratios of seeds, reductions and microbatches: python scripts/costs.py vae --batch-size 128

Compares several seeds in one program with as many sequential runs, --reduction reproducible with fast on 1, 2, 4 and 8
devices (virtual ones on a CPU), and --accumulate 4 with 1. Times are those of training, without compilation and
evaluation; the runs of the two alternatives are interleaved. Prints the median ratio over the turns, with minimum and
maximum. All other flags are those of the experiment.
"""

import argparse
import dataclasses
import statistics
import sys
from types import ModuleType

import jax

from jaxae import run
from jaxae.data import Dataset
from jaxae.devices import plan as plans
from jaxae.errors import InputError, input_errors
from jaxae.run import command_line, loop
from jaxae.run.config import Config
from jaxae.run.find import find


def main() -> None:
    run.program(costs)


def costs(_: loop.Stop) -> str:
    """The table: a row for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name of the experiment, such as vae")
    parser.add_argument("--turns", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--together", type=int, default=8, help="seeds at once (default: %(default)s)")
    options, flags = parser.parse_known_args()
    jax.config.update("jax_num_cpu_devices", 8)
    name = options.experiment
    module = find(name)
    config = command_line.parse(module.Config, module.__doc__ or "", flags)
    several = dataclasses.replace(config, seeds=options.together)
    ordered = dataclasses.replace(config, reduction="reproducible")
    parts = dataclasses.replace(config, accumulate=4)
    rows = [(f"{options.together} runs against {options.together} seeds at once", (config, 1), (several, 1))]
    rows += [(f"reproducible against fast, {n} devices", (ordered, n), (config, n)) for n in (1, 2, 4, 8)]
    rows += [("--accumulate 4 against 1", (parts, 1), (config, 1))]
    rows = [row for row in rows if row[1][1] <= len(jax.devices())]
    dataset = run.loaded(config)
    for _, *both in rows:
        for one in both:
            prepare(module, dataset, *one)  # InputError before anything is timed
    print(f"{name} on {jax.devices()[0].device_kind}, batch size {config.batch_size}: ratio of times", file=sys.stderr)
    lines = []
    for title, *both in rows:
        ratios = []
        for _ in range(options.turns):
            slow, fast = (seconds(module, dataset, *one) for one in both)
            ratios.append(slow / fast)
        lines.append(f"| {title} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")
    return "\n".join(lines)


def prepare(module: ModuleType, dataset: Dataset, config: Config, devices: int) -> tuple[run.Experiment, plans.Plan]:
    """The experiment, and the plan for this number of devices. InputError for a configuration that is not supported."""
    some = jax.devices()[:devices]
    with command_line.flags_of(config), input_errors():
        plan = plans.plan("auto", config.batch_size, config.seeds, some, config.reduction, config.accumulate)
        return run.checked(config, module.build, dataset, plan), plan


def seconds(module: ModuleType, dataset: Dataset, config: Config, devices: int) -> float:
    """Training time in seconds per image and seed. InputError for a run with too few steps to time."""
    experiment, plan = prepare(module, dataset, config, devices)
    step, timed, spent = 0, 0, 0.0
    for now in loop.configured(experiment, dataset, config, plan):
        if now.seconds:
            timed, spent = timed + now.step - step, spent + now.seconds
        step = now.step
    if not timed:
        raise InputError(f"--epochs {config.epochs}: too few steps to time; use more")
    return spent / (timed * config.batch_size * config.seeds)


if __name__ == "__main__":
    main()
