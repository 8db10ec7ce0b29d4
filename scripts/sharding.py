"""Memory per device with and without --parallel fsdp: python scripts/sharding.py dense --hidden 4096 4096 4096

Compiles the training program for 1, 2, 4 and 8 devices (virtual ones on a CPU), with the state replicated (--parallel
jit) and split (fsdp), without running it. Prints the bytes of parameters and optimizer state on each device, what XLA's
memory analysis says of the program on each device, the largest array that is gathered, and the numbers of collectives.
All other flags are those of the experiment.
"""

import argparse
import math
import re
from collections import Counter
from functools import partial
from typing import Any

import jax

from jaxae import run
from jaxae.data import Dataset
from jaxae.devices import plan as plans
from jaxae.run import command_line, loop
from jaxae.run.config import Config
from jaxae.run.find import find
from jaxae.training import epoch, feed, start
from jaxae.training.iterate import seeded

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
MIB = 2**20


def main() -> None:
    run.program(sharding)


def sharding(_: loop.Stop) -> str:
    """The table: a row for each mode and number of devices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name of the experiment, such as dense")
    parser.add_argument(
        "--numbers", type=int, nargs="+", default=[1, 2, 4, 8], help="of devices (default: %(default)s)"
    )
    options, flags = parser.parse_known_args()
    jax.config.update("jax_num_cpu_devices", 8)
    module = find(options.experiment)
    config = command_line.parse(module.Config, module.__doc__ or "", flags)
    dataset = run.loaded(config)
    experiment = run.checked(config, module.build, dataset)
    head = ("state, MiB", "arguments", "results", "temporary", "largest gathered", "collectives")
    lines = [f"| devices | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for number in options.numbers:
        for mode in ("jit", "fsdp") if number > 1 else ("jit",):
            plan = plans.plan(mode, config.batch_size, config.seeds, jax.devices()[:number])
            lines.append(f"| {number}, {plan.mode} | {' | '.join(row(experiment, dataset, config, plan))} |")
    return "\n".join(lines)


def row(experiment: run.Experiment, dataset: Dataset, config: Config, plan: plans.Plan) -> list[str]:
    """The columns of a plan."""
    numbers, several = loop.seeds_of(config), config.seeds > 1

    def placed(tree: Any) -> Any:
        shardings = plans.state_shardings(tree, plan, several)
        return jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), tree, shardings)

    state, totals = start.shapes(experiment, dataset.info, config.batch_size, numbers)
    portion = feed.feed(dataset.train, plan, numbers, config.batch_size)(0, 0)
    key = plans.place(start.keys(numbers, start.TRAIN), plan, several)
    args = (placed(state), placed(totals), portion.data, portion.order, key, 0, 0)
    make = partial(epoch.train, experiment.train, dataset.info.shape, config.batch_size)
    compiled: Any = plans.compile(make, plan, seeded(plan, args)[0], args)
    memory, text = compiled.memory_analysis(), compiled.as_text()
    bytes_of = (
        plans.bytes_per_device(state, plan, several),
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.temp_size_in_bytes,
    )
    gathered = [math.prod(map(int, shape.split(","))) for shape in re.findall(r"= f32\[([\d,]+)\]\S* all-gather", text)]
    found = Counter(re.findall(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(", text))
    each = [f"{size / MIB:,.1f}" for size in (*bytes_of, 4 * max(gathered, default=0))]
    return [*each, ", ".join(f"{found[name]} {name}" for name in COLLECTIVES if found[name])]


if __name__ == "__main__":
    main()
