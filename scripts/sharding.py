"""Memory per device with and without --parallel fsdp: python scripts/sharding.py dense --hidden 4096 4096 4096

Compiles the training program for 1, 2, 4 and 8 devices (virtual ones on a CPU), with the state replicated (--parallel
jit) and sharded (fsdp), without running it. Prints in MiB the parameters and optimizer state on each device, XLA's
memory analysis of the program on each device, and the largest array that is gathered; and the numbers of collectives.
All other flags are those of the experiment; --parallel and --reduction have no effect.
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
        "--numbers", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of devices (default: %(default)s)"
    )
    options, flags = parser.parse_known_args()
    jax.config.update("jax_num_cpu_devices", 8)
    module = find(options.experiment)
    config = command_line.parse(module.Config, module.__doc__ or "", flags)
    dataset = run.loaded(config)
    experiment = run.checked(config, module.build, dataset)
    head = ("state", "arguments", "results", "temporary", "largest array gathered", "collectives in a step")
    lines = [f"| devices | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for number in options.numbers:
        for mode in ("jit", "fsdp") if number > 1 else ("jit",):
            devices = jax.devices()[:number]
            plan = plans.plan(mode, config.batch_size, config.seeds, devices, accumulate=config.accumulate)
            how = f", `--parallel {mode}`" if number > 1 else ""
            lines.append(f"| {number}{how} | {' | '.join(row(experiment, dataset, config, plan))} |")
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
    found = Counter(re.findall(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(", text))
    each = [f"{size / MIB:,.1f}" for size in bytes_of]
    gathered = largest_gathered(text)
    return [
        *each,
        f"{gathered / MIB:,.1f}" if gathered else "",
        ", ".join(f"{found[name]} {name}" for name in COLLECTIVES if found[name]),
    ]


def largest_gathered(text: str) -> int:
    """Bytes of the largest array that a compiled program gathers, 0 for none. text: its HLO."""
    results = re.findall(r"= (.*?) all-gather(?:-start)?\(", text)
    shapes = [found for result in results for found in re.findall(r"[a-z]+(\d+)\[([\d,]+)\]", result)]
    return max((int(bits) * math.prod(map(int, shape.split(","))) // 8 for bits, shape in shapes), default=0)


if __name__ == "__main__":
    main()
