"""Work through many tasks at once: on this host's cores, or on an existing Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import active_children, get_context
from typing import TypeVar

from kvpred.errors import KvpredError, MissingExtraError, UsageError
from kvpred.hardware.host import usable_cores

Task = TypeVar("Task")
Result = TypeVar("Result")

BACKENDS = ("local", "ray")


def fan_out(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    backend: str = "local",
    workers: int | None = None,
) -> Iterator[tuple[int, Result]]:
    """Call a function for each task, and yield each task's number and result as it ends.

    Parameters
    ----------
    function : callable
        Of a module, not local to another function: workers import it.
    tasks : sequence
        Values that can be sent to another process.
    backend : {"local", "ray"}
        Processes of this host, or the Ray cluster that ``RAY_ADDRESS`` names or that runs on this host.
    workers : int, optional
        Most processes of this host; as many as it has cores, if not given. With one, or one task, this very
        process does the work.

    Raises
    ------
    UsageError
        If the backend is unknown, or no cluster is found.
    MissingExtraError
        If Ray is not installed.
    """
    if backend not in BACKENDS:
        raise UsageError(f"--backend {backend} is not known: use one of {', '.join(BACKENDS)}")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: give at least 1")
    if backend == "ray":
        return _on_ray(function, tasks)
    processes = min(workers or usable_cores(), len(tasks))
    if processes <= 1:
        return ((number, function(task)) for number, task in enumerate(tasks))
    return _on_processes(function, tasks, processes)


def _on_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], processes: int
) -> Iterator[tuple[int, Result]]:
    before = active_children()
    # A fork would copy locks that the threads of numerical libraries hold.
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_leave_interrupts)
    try:
        numbers = {pool.submit(function, task): number for number, task in enumerate(tasks)}
        for future in as_completed(numbers):
            yield numbers[future], future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise KvpredError(
            "a worker process ended before its work did, perhaps for lack of memory: try fewer --workers"
        ) from error
    finally:
        # After an error, Ctrl-C, or when nobody asks for more.
        pool.shutdown(wait=False, cancel_futures=True)
        for child in active_children():
            if child not in before:
                child.terminate()


def _leave_interrupts() -> None:
    """Leave Ctrl-C to the parent, which then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def check_reachable(address: str) -> None:
    """Raise `UsageError` if nobody listens at HOST:PORT, which Ray itself would wait for without end."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray cluster at {address} ({error}): RAY_ADDRESS names it") from None


def _on_ray(function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
    try:
        ray = import_module("ray")
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    begun = not ray.is_initialized()
    if begun:
        address = os.environ.get("RAY_ADDRESS", "auto")
        check_reachable(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, ValueError) as error:
            raise UsageError(
                f"no Ray cluster at {address} ({str(error).splitlines()[0]}): `ray start --head` starts one, "
                f"RAY_ADDRESS names one"
            ) from None
    try:
        call = ray.remote(num_cpus=1, max_retries=2)(function)
        numbers = {call.remote(task): number for number, task in enumerate(tasks)}
        waiting = list(numbers)
        while waiting:
            (done, *_), waiting = ray.wait(waiting)
            yield numbers[done], ray.get(done)
    except ray.exceptions.RayTaskError as error:
        # A worker's KvpredError is raised as the user would see it without Ray.
        raise (error.cause if isinstance(error.cause, KvpredError) else error) from None
    finally:
        if begun:
            ray.shutdown()
