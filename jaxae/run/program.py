"""The command line of an experiment, and the exit codes of every program."""

import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

import jax

from jaxae.devices import signals
from jaxae.devices.plan import platform_error
from jaxae.devices.processes import SINGLE_PROCESS, Processes, join
from jaxae.errors import Diverged, InputError, Interrupted, discard_output, first_line, input_errors
from jaxae.run import command_line, compiled, directory, results
from jaxae.run.build import Build
from jaxae.run.config import Config
from jaxae.run.execute import checked, loaded, train
from jaxae.run.find import name_of
from jaxae.training.layers import layers


def main(kind: type[Config], build: Build, argv: Sequence[str] | None = None) -> None:
    """Run an experiment from the command line, and exit."""
    module = sys.modules[kind.__module__]
    name = name_of(module)
    processes = SINGLE_PROCESS

    def work(stop: signals.Stop) -> str:
        nonlocal processes
        config = command_line.parse(kind, module.__doc__ or "", argv, None if name.endswith(".py") else f"jaxae {name}")
        with command_line.flags_of(config):
            if config.summary:
                return layer_tables(config, build)
            with input_errors():
                processes = join(
                    config.coordinator, config.num_processes, config.process_id, config.heartbeat, config.patience
                )
            stop.patient = processes.is_multiprocess
            workdir = train(config, build, name, stop, processes)
        return results.summary(workdir) if processes.is_main_process else ""

    program(work, lambda: processes)


def program(
    work: Callable[[signals.Stop], str], processes: Callable[[], Processes] = lambda: SINGLE_PROCESS
) -> NoReturn:
    """Call `work(stop)`, print its result, and exit with a code. processes: those of the run.

    0: done. 1: another process was lost. 2: bad input. 3: diverged. 128 + signal: stopped by SIGINT or SIGTERM, with
    the last step saved.
    """
    logging.basicConfig(format="%(message)s", force=True)
    logging.getLogger("jaxae").setLevel(logging.INFO)
    for name in (
        "absl",
        "asyncio",
        "urllib3",
    ):  # Orbax and TFDS log errors that they also raise
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with signals.stopping() as stop:
        try:
            with compiled.persistent_cache():
                text = work(stop)
            with suppress(BrokenPipeError):  # the reader may have closed the pipe
                print(text, end="\n" if text else "", flush=True)
            processes().shutdown()
            code = 0
        except InputError as error:
            print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
            code = 2
        except Diverged as error:
            print(f"{diverged_line(error)}; earlier checkpoints are kept; try a lower --lr", file=sys.stderr)
            code = 3
        except Interrupted:
            stop.end()
        except BrokenPipeError:
            discard_output()
            code = 0
        except OSError as error:
            signals.cannot_write(error)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                text, code = "out of memory; use a smaller --batch-size, fewer --seeds or a smaller network", 2
            elif processes().is_multiprocess:
                text, code = f"another process was lost: repeat the commands to resume ({first_line(error)})", 1
            else:
                raise
            print(f"error: {text}", file=sys.stderr)
        except Exception:
            if not (text := platform_error()):
                raise
            print(f"error: {text}", file=sys.stderr)
            code = 2
    if code and processes().is_multiprocess:
        processes().leave(code)
    sys.exit(code)


def diverged_line(error: Diverged) -> str:
    """The line to print: the non-finite term and, if the step is saved, the command that replays it."""
    if error.workdir is None:
        return f"diverged: {error}"
    name = directory.read(error.workdir / "config.json")["experiment"]
    module = ("--module", name.removesuffix(".py")) if name.endswith(".py") else ()
    command = shlex.join(("jaxae", "replay", str(error.workdir), *module))
    return f"diverged: {error}; `{command}` names the first non-finite value"


def layer_tables(config: Config, build: Build) -> str:
    """Tables of the layers of encoder, decoder and both."""
    dataset = loaded(config)
    experiment = checked(config, build, dataset)
    size = experiment.condition(dataset.conditions).size if experiment.conditional else None
    tables = layers(experiment.model, dataset.shape, size)
    return "\n".join(f"{name}\n{table}" for name, table in tables.items())
