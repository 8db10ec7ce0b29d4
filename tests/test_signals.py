"""Signals to processes whose main thread runs C code for minutes, as during a compilation."""

import signal
import subprocess
import sys
import time
import types

import pytest

from jaxae.devices import signals
from jaxae.devices.signals import TWICE, Stop
from jaxae.errors import Interrupted

START = """
import hashlib, pathlib, sys, time
from jaxae import errors
from jaxae.devices import signals

def busy():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

def save():
    pathlib.Path(sys.argv[1]).write_text("saved")

with signals.stopping() as stop:
    try:
"""
END = """
    except errors.Interrupted:
        stop.end()
"""
BUSY = "stop(save); print(flush=True); busy()"
NOTHING = "print(flush=True); busy()"
ALL_SAVED = "stop(save); stop(None); print(flush=True); busy()"
ASKS = """
        late = lambda: pathlib.Path(sys.argv[1]).write_text("by the other thread")
        stop(late)
        print(flush=True)
        while not stop(late):
            time.sleep(0.01)
        save()
        raise errors.Interrupted
"""
IN_PYTHON = "print(flush=True)\n        while True: time.sleep(0.01)"
STUCK = "stop(lambda: time.sleep(1000)); print(flush=True); busy()"


def run(body, tmp_path, *numbers):
    """Exit code, standard error and saved text after these signals; the second is sent after `stopping` is printed."""
    program = START + "        " + body + END
    command = [sys.executable, "-c", program, str(tmp_path / "saved")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            process.stdout.readline()
            said = ""
            for number in numbers:
                process.send_signal(number)
                if len(numbers) > 1:
                    said += process.stderr.readline()
                    time.sleep(2 * TWICE)
            said += process.communicate(timeout=20)[1]
        finally:
            process.kill()
    file = tmp_path / "saved"
    return process.returncode, said.splitlines(), file.read_text() if file.exists() else None


STOPPING = "stopping after this step; a second signal stops immediately"
STOPPED = "stopped: the same command resumes from here"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_thread_saves_while_the_main_thread_is_busy(tmp_path, number):
    assert run(BUSY, tmp_path, number) == (128 + number, [STOPPING, STOPPED], "saved")


def test_main_thread_that_calls_stop_saves_by_itself(tmp_path):
    code, said, saved = run(ASKS, tmp_path, signal.SIGTERM)
    assert (code, saved) == (143, "saved")
    assert STOPPED in said  # besides `stopping` from the other thread


def test_lines_of_two_threads_do_not_mix(monkeypatch):
    written = []
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(write=written.append, flush=lambda: None))
    signals._say(STOPPED)
    assert written == [f"{STOPPED}\n"]


@pytest.mark.parametrize("body", [NOTHING, ALL_SAVED, IN_PYTHON])
def test_process_without_unsaved_state_ends_at_once(tmp_path, body):
    assert run(body, tmp_path, signal.SIGTERM) == (143, [STOPPED], None)


def test_closed_stderr_does_not_prevent_saving(tmp_path):
    """The reader of stderr is gone, as for a pipe to a process that the same Ctrl-C ended."""
    command = [sys.executable, "-c", START + "        " + BUSY + END, str(tmp_path / "saved")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stderr.close()
        process.stderr = None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
    assert (tmp_path / "saved").exists()


def test_signal_received_twice_at_once_counts_once(tmp_path):
    program = START + "        " + BUSY + END
    command = [sys.executable, "-c", program, str(tmp_path / "saved")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(0.03)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert (tmp_path / "saved").exists()


def test_second_signal_ends_at_once(tmp_path):
    code, said, saved = run(STUCK, tmp_path, signal.SIGTERM, signal.SIGINT)
    assert (code, said[0], saved) == (130, STOPPING, None)
    assert STOPPED not in said


def test_signal_during_the_last_step_interrupts_after_saving():
    stop = Stop()
    assert not stop(lambda: None)
    stop.handle(signal.SIGTERM, None)
    assert stop(lambda: None)
    with pytest.raises(Interrupted):
        stop(None)


def test_signal_handlers_are_restored():
    before = [signal.getsignal(number) for number in signals.NUMBERS]
    with signals.stopping() as stop:
        assert signal.getsignal(signal.SIGINT) == stop.handle
    assert [signal.getsignal(number) for number in signals.NUMBERS] == before
    time.sleep(2 * signals.GRACE)  # this process continues
