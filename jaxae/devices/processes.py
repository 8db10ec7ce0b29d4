"""Multi-process training. No other file uses jax.distributed or collectives on the host."""

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

DAY = 86400  # seconds; longer than the main process needs to draw figures


@dataclass(frozen=True)
class Processes:
    """Communication with the other processes of a run. The default: a single process.

    One object per run, which numbers the barriers.
    """

    patience: float = 0.0  # seconds to wait for other processes; 0: there are none
    barriers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def is_multiprocess(self) -> bool:
        """Whether there are other processes."""
        return self.patience > 0 and jax.process_count() > 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes the run directory."""
        return not self.is_multiprocess or jax.process_index() == 0

    def shutdown(self) -> None:
        """Wait for all processes, and continue as a single one."""
        if self.is_multiprocess:
            jax.distributed.shutdown()

    def barrier(self) -> None:
        """Wait for all processes before the first collective, where Gloo waits for only 30 seconds."""
        if self.is_multiprocess:
            with self.waiting():
                self._wait(DAY)

    def leave(self, code: int) -> NoReturn:
        """End the process after an error, process 0, the coordinator, last, so that the others can report theirs."""
        with suppress(jax.errors.JaxRuntimeError):
            self._wait(3)
            time.sleep(0.5 if self.is_main_process else 0)
        signals.leave(code)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Print the stack and end this process if the body, which needs the others, takes longer than `patience`."""
        if self.is_multiprocess:
            faulthandler.dump_traceback_later(self.patience, exit=True)
        try:
            yield
        finally:
            if self.is_multiprocess:
                faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the body on the main process first, while the others wait."""
        if not self.is_main_process:
            self._wait(DAY)
        yield
        if self.is_multiprocess and self.is_main_process:
            self._wait(DAY)

    def maximum(self, value: float) -> float:
        """Maximum over processes."""
        if not self.is_multiprocess:
            return value
        with self.waiting():
            return float(np.max(multihost_utils.process_allgather(np.float32(value))))

    def broadcast_json(self, value: Any) -> Any:
        """Broadcast a JSON value from the main process."""
        if not self.is_multiprocess:
            return value
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        with self.waiting():
            size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
        text = text if self.is_main_process else np.zeros(size, np.uint8)
        return json.loads(self.broadcast_tree(text).tobytes())

    def broadcast_tree(self, tree: Any) -> Any:
        """Broadcast arrays from the main process, bit for bit.

        Arrays on devices of several processes are returned as they are.
        """
        if not self.is_multiprocess:
            return tree

        def one(leaf: Any) -> Any:
            if _spans_processes(leaf):
                return leaf
            host = np.asarray(leaf)
            sent = multihost_utils.broadcast_one_to_all(np.ravel(host).view(np.uint8))  # singly, to save memory
            return np.asarray(sent).view(host.dtype).reshape(host.shape)

        with self.waiting():
            return jax.tree.map(one, tree)

    def gather(self, tree: Any) -> Any:
        """Copy the arrays that are split over processes to the host of each; all processes have to call this."""

        def one(leaf: Any) -> Any:
            split = _spans_processes(leaf) and not leaf.is_fully_replicated
            return multihost_utils.process_allgather(leaf, tiled=True) if split else leaf

        with self.waiting():
            return jax.tree.map(one, tree) if self.is_multiprocess else tree

    def _wait(self, seconds: float) -> None:
        """Barrier of the coordination service on process 0, with a timeout, which collectives do not support."""
        client: Any = distributed.global_state.client
        client.wait_at_barrier(f"jaxae-{next(self.barriers)}", int(1000 * seconds))


def _spans_processes(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


SINGLE_PROCESS = Processes()


def join(coordinator: str, num_processes: int, process_id: int, heartbeat: int, patience: int) -> Processes:
    """Join a multi-process run; without a coordinator, a single process.

    coordinator: HOST:PORT at which process 0 listens, or auto. ValueError for invalid arguments; the process ends if
    the others do not join within `patience` seconds.
    """
    if not coordinator:
        if num_processes > 1 or process_id:
            raise ValueError(
                f"num_processes={num_processes}, process_id={process_id} need coordinator=HOST:PORT of process 0"
            )
        return SINGLE_PROCESS
    where: dict[str, Any] = {}
    if coordinator != "auto":
        if not re.fullmatch(r".+:\d{1,5}", coordinator):
            raise ValueError(f"coordinator={coordinator} must be HOST:PORT, or auto")
        if process_id >= num_processes:
            raise ValueError(f"process_id={process_id} must be below num_processes={num_processes}")
        where = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    line = f"error: --coordinator {coordinator}: not all processes joined within {patience} s; start them, or raise"
    late = threading.Timer(patience, signals.leave, (2, f"{line} --patience"))
    late.daemon = True  # JAX itself would abort
    late.start()
    jax.config.update("jax_enable_preemption_service", False)  # its SIGTERM handler would replace that of `signals`
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=patience + 60,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=DAY,
        )
    except (RuntimeError, ValueError) as error:
        reason = "no cluster is found" if "should be defined" in str(error) else first_line(error)
        raise ValueError(f"coordinator={coordinator}: {reason}; use HOST:PORT with a free port") from None
    finally:
        late.cancel()
    return Processes(patience)
