"""Several processes that train together: the only file that names jax.distributed and collectives on the host."""

import faulthandler
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from jaxae.devices import signals
from jaxae.errors import first_line

DAY = 86400  # seconds: longer than one process draws while the others wait


@dataclass(frozen=True)
class Processes:
    """What this process shares with the others. The default: it is alone.

    One object per run: barriers are numbered by it.
    """

    patience: float = 0.0  # seconds to wait for other processes; 0: there are none
    barriers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def is_multiprocess(self) -> bool:
        """Whether there are other processes."""
        return self.patience > 0 and jax.process_count() > 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes."""
        return not self.is_multiprocess or jax.process_index() == 0

    def shutdown(self) -> None:
        """Wait until all processes are here, and continue alone."""
        if self.is_multiprocess:
            jax.distributed.shutdown()

    def barrier(self) -> None:
        """Wait until all processes are here: Gloo gives those that come late to their first collective 30 seconds."""
        if self.is_multiprocess:
            with self.waiting():
                self._wait(DAY)

    def leave(self, code: int) -> NoReturn:
        """End the process after an error. Where the others have the same one, none of them is to miss process 0."""
        with suppress(jax.errors.JaxRuntimeError):
            self._wait(3)
            time.sleep(0.5 if self.is_main_process else 0)
        signals.leave(code)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While other processes are needed: if they are stuck, print where this one is, and end it."""
        if self.is_multiprocess:
            faulthandler.dump_traceback_later(self.patience, exit=True)
        try:
            yield
        finally:
            if self.is_multiprocess:
                faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The main process does this before the others do, which wait as long as it takes."""
        if not self.is_main_process:
            self._wait(DAY)
        yield
        if self.is_multiprocess and self.is_main_process:
            self._wait(DAY)

    def maximum(self, value: float) -> float:
        """The largest value of all processes."""
        if not self.is_multiprocess:
            return value
        with self.waiting():
            return float(np.max(multihost_utils.process_allgather(np.float32(value))))

    def broadcast_json(self, value: Any) -> Any:
        """A JSON value of the main process."""
        if not self.is_multiprocess:
            return value
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        with self.waiting():
            size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
        text = text if self.is_main_process else np.zeros(size, np.uint8)
        return json.loads(self.broadcast_tree(text).tobytes())

    def broadcast_tree(self, tree: Any) -> Any:
        """Arrays of the main process: the same bits."""
        if not self.is_multiprocess:
            return tree
        leaves, structure = jax.tree.flatten(jax.device_get(tree))
        with self.waiting():
            sent = multihost_utils.broadcast_one_to_all([np.ravel(leaf).view(np.uint8) for leaf in leaves])
        back = [np.asarray(b).view(a.dtype).reshape(a.shape) for a, b in zip(leaves, sent, strict=True)]
        return jax.tree.unflatten(structure, back)

    def _wait(self, seconds: float) -> None:
        """A barrier of the service that process 0 runs: unlike collectives, it waits for as long as it is to."""
        client: Any = distributed.global_state.client
        client.wait_at_barrier(f"jaxae-{next(self.barriers)}", int(1000 * seconds))


ALONE = Processes()


def join(coordinator: str, num_processes: int, process_id: int, heartbeat: int, patience: int) -> Processes:
    """Become one of several processes that train together; alone, without a coordinator.

    coordinator: HOST:PORT at which process 0 listens, or auto. ValueError for arguments that do not fit; the process
    ends if the others do not come within `patience` seconds.
    """
    if not coordinator:
        if num_processes > 1 or process_id:
            raise ValueError(
                f"num_processes={num_processes}, process_id={process_id}: say where the first one is: "
                "coordinator=HOST:PORT"
            )
        return ALONE
    where: dict[str, Any] = {}
    if coordinator != "auto":
        if not re.fullmatch(r".+:\d{1,5}", coordinator):
            raise ValueError(f"coordinator={coordinator} must be HOST:PORT, or auto")
        if process_id >= num_processes:
            raise ValueError(f"process_id={process_id} must be below num_processes={num_processes}")
        where = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    line = f"error: --coordinator {coordinator}: not all processes came within {patience} s: start them, or wait longer"
    late = threading.Timer(patience, signals.leave, (2, f"{line} (--patience)"))
    late.daemon = True  # JAX itself would abort
    late.start()
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from `signals`
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=patience + 60,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=DAY,
        )
    except (RuntimeError, ValueError) as error:
        reason = "no cluster is found" if "should be defined" in str(error) else first_line(error)
        raise ValueError(f"coordinator={coordinator}: {reason}: give HOST:PORT of a free port") from None
    finally:
        late.cancel()
    return Processes(patience)
