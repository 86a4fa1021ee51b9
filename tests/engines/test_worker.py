"""An engine in a process of its own: calls, errors, hangs and crashes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kvpred.engines.base import Engine, EngineError, Generation, Target, Usage
from kvpred.engines.worker import Worker
from kvpred.errors import UsageError
from kvpred.methods import Method, get_method
from tests.tiny import TINY

FP16 = get_method("fp16")


class Obedient(Engine):
    """Does what its options say, in the worker's process: an engine as another package might bring one."""

    name = "transformers"

    def __init__(self, target: Target, methods: Sequence[Method]) -> None:
        super().__init__(target, methods)
        if target.options.get("start") == "refuse":
            raise UsageError("it does not want to")

    def generate(
        self, method: Method, *, bsz: int, prompt_len: int, output_len: int, seed: int
    ) -> Generation:
        held = bytearray(prompt_len)
        held[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * len(held[:: os.sysconf("SC_PAGE_SIZE")])
        print("an engine that talks")
        return Generation((prompt_len,) * bsz, ((0.1, 0.2),) * bsz)

    def complete(self, method: Method, prompt: str, *, max_tokens: int) -> str:
        if prompt == "hang":
            time.sleep(60)
        if prompt == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("a defect")

    def usage(self, method: Method, *, prompt_len: int, output_len: int) -> Usage | None:
        return Usage(prompt_len)

    def versions(self) -> dict[str, str]:
        return {"pid": str(os.getpid())}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Let the worker's process find this file, however the tests were started."""
    monkeypatch.syspath_prepend(str(root))


def worker(**options: str) -> Worker:
    return Worker(Obedient, Target(TINY, options=options), [FP16], timeout_s=20)


def generate(engine: Engine, prompt_len: int) -> Generation:
    return engine.generate(FP16, bsz=1, prompt_len=prompt_len, output_len=2, seed=0)


def test_calls_are_answered_elsewhere(capfd: pytest.CaptureFixture[str]) -> None:
    engine = worker()
    try:
        assert engine.versions() == {"pid": str(engine.pid)} != {"pid": str(os.getpid())}
        assert generate(engine, 8).prompt_tokens == (8,)
        assert capfd.readouterr().out == ""
    finally:
        engine.close()


def test_peak_memory_is_of_one_batch() -> None:
    engine = worker()
    try:
        before, large, after = (generate(engine, size).peak_memory_bytes for size in (8, 2**27, 8))
    finally:
        engine.close()

    assert before is not None and large is not None and after is not None
    assert large - before > 0.9 * 2**27
    assert after < large - 0.9 * 2**27


def test_a_refusal_at_the_start_leaves_no_process() -> None:
    with pytest.raises(UsageError, match="does not want to"):
        worker(start="refuse")


def test_a_defect_is_named_and_the_engine_lives_on() -> None:
    engine = worker()
    try:
        with pytest.raises(EngineError, match="ValueError: a defect"):
            engine.complete(FP16, "fail", max_tokens=1)
        assert generate(engine, 8).bsz == 1
    finally:
        engine.close()


def test_a_hang_is_ended() -> None:
    engine = worker()
    engine._timeout_s = 0.5
    with pytest.raises(EngineError, match="hung: complete took longer"):
        engine.complete(FP16, "hang", max_tokens=1)
    _is_gone(engine)


def test_a_crash_is_named() -> None:
    engine = worker()
    with pytest.raises(EngineError, match=r"died in complete \(exit code -9\)"):
        engine.complete(FP16, "die", max_tokens=1)
    _is_gone(engine)


def _is_gone(engine: Worker) -> None:
    pid: Any = engine.pid
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
