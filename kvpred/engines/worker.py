"""An engine in a process of its own: its memory is its own, and a hang or a crash ends nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

from kvpred.data.requests import ServedRequests
from kvpred.engines.base import Arrival, Engine, EngineError, Generation, Target, Usage
from kvpred.errors import DataError, KvpredError, UsageError
from kvpred.methods import Method

HANG_S = 900.0
"""A call that takes longer than this is taken for a hang."""

_ERRORS = {"UsageError": UsageError, "DataError": DataError, "EngineError": EngineError}
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Worker(Engine):
    """Hold an engine in a spawned process.

    Parameters
    ----------
    engine : type of Engine
    target : Target
    methods : sequence of Method
    timeout_s : float
        Longest call; the process is killed after it.

    Raises
    ------
    UsageError, DataError, EngineError
        As the engine does; a missing extra becomes a plain `KvpredError`.
    """

    def __init__(
        self, engine: type[Engine], target: Target, methods: Sequence[Method], *, timeout_s: float = HANG_S
    ) -> None:
        super().__init__(target, methods)
        self.name = engine.name  # type: ignore[misc]
        self._timeout_s = timeout_s
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other, engine, target, self.methods), daemon=True
        )
        self._process.start()
        other.close()
        try:
            self._receive("start", timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """The process that does the work."""
        return self._process.pid

    def generate(
        self, method: Method, *, bsz: int, prompt_len: int, output_len: int, seed: int
    ) -> Generation:
        """Serve one batch there; its peak memory is the process's own during this batch."""
        sizes = {"bsz": bsz, "prompt_len": prompt_len, "output_len": output_len}
        return self._call("generate", method, **sizes, seed=seed)  # type: ignore[no-any-return]

    def serve(self, method: Method, arrivals: Sequence[Arrival]) -> ServedRequests:
        """Serve requests as they come there; the last one's arrival does not count toward a hang."""
        last_s = arrivals[-1].at_s if arrivals else 0.0
        return self._call("serve", method, arrivals, patience_s=last_s)  # type: ignore[no-any-return]

    def complete(self, method: Method, prompt: str, *, max_tokens: int) -> str:
        """Continue a text there."""
        return self._call("complete", method, prompt, max_tokens=max_tokens)  # type: ignore[no-any-return]

    def usage(self, method: Method, *, prompt_len: int, output_len: int) -> Usage | None:
        """Count a sequence's cache there."""
        return self._call("usage", method, prompt_len=prompt_len, output_len=output_len)  # type: ignore[no-any-return]

    def versions(self) -> dict[str, str]:
        """Ask the engine."""
        return self._call("versions")  # type: ignore[no-any-return]

    def settings(self, method: Method) -> dict[str, Any]:
        """Ask the engine."""
        return self._call("settings", method)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive():
            try:
                self._pipe.send(None)
                self._process.join(timeout=10)
            except OSError:
                pass
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def _call(self, name: str, *args: Any, patience_s: float = 0.0, **kwargs: Any) -> Any:
        try:
            self._pipe.send((name, args, kwargs))
        except OSError:
            raise self._died(name) from None
        return self._receive(name, self._timeout_s + patience_s)

    def _receive(self, name: str, timeout_s: float) -> Any:
        if not self._pipe.poll(timeout_s):
            self._process.kill()
            raise EngineError(f"{self.name} hung: {name} took longer than {timeout_s:.0f} s.")
        try:
            failed, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._died(name) from None
        if failed:
            kind, text = value
            raise _ERRORS.get(kind, KvpredError)(text)
        return value

    def _died(self, name: str) -> EngineError:
        self._process.join(timeout=10)
        return EngineError(
            f"{self.name} died in {name} (exit code {self._process.exitcode}); out of memory, most likely: "
            "serve fewer or shorter sequences."
        )


def _serve(pipe: Connection, engine_type: type[Engine], target: Target, methods: Sequence[Method]) -> None:
    """Make the engine and answer calls until the pipe ends; what it prints goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(2, 1)
    engine = _answer(pipe, engine_type, target, methods, keep=True)
    if engine is None:
        return
    try:
        while (call := pipe.recv()) is not None:
            name, args, kwargs = call
            function = partial(_with_peak, engine) if name == "generate" else getattr(engine, name)
            _answer(pipe, function, *args, **kwargs)
    except (EOFError, OSError):
        pass
    finally:
        engine.close()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even in the middle of a batch."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(pipe: Connection, function: Any, *args: Any, keep: bool = False, **kwargs: Any) -> Any:
    """Send what a call returns, or what it raises; return it, or None."""
    try:
        value = function(*args, **kwargs)
    except Exception as error:
        kind = type(error).__name__ if isinstance(error, KvpredError) else "EngineError"
        text = str(error) if isinstance(error, KvpredError) else f"{type(error).__name__}: {error}"
        pipe.send((True, (kind, text)))
        return None
    pipe.send((False, None if keep else value))
    return value


def _with_peak(engine: Engine, *args: Any, **kwargs: Any) -> Generation:
    """Generate, and complete what the engine hands back with this process's peak of resident memory."""
    if _CLEAR.exists():
        _CLEAR.write_text("5", encoding="ascii")
    done = engine.generate(*args, **kwargs)
    if done.peak_memory_bytes is not None or not _STATUS.exists():
        return done
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    peaks = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return replace(done, peak_memory_bytes=peaks[0] if peaks else None)
