"""Fan-out of tasks: one process, several, and Ray give the same; errors and endings reach the caller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest

from kvpred.errors import KvpredError, MissingExtraError, UsageError
from kvpred.hardware.host import usable_cores
from kvpred.methods import get_method
from kvpred.simulation.fanout import check_reachable, fan_out

NAMES = ("h2o", "fp16", "kivi")
METHODS = {number: get_method(name) for number, name in enumerate(NAMES)}
# A link that leads each process to its own number.
OWN_PROCESS = "/proc/self"


@pytest.mark.parametrize("workers", [1, 2, None])
def test_every_task_comes_back_under_its_number(workers: int | None) -> None:
    assert dict(fan_out(get_method, NAMES, workers=workers)) == METHODS


@pytest.mark.skipif(not Path(OWN_PROCESS).is_symlink(), reason="no /proc here")
def test_one_worker_is_this_process_and_two_are_others() -> None:
    links = [OWN_PROCESS] * 4
    assert set(dict(fan_out(os.readlink, links, workers=1)).values()) == {str(os.getpid())}
    assert str(os.getpid()) not in dict(fan_out(os.readlink, links, workers=2)).values()


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_a_task_are_the_callers(workers: int) -> None:
    with pytest.raises(UsageError, match="kiwi"):
        list(fan_out(get_method, ["h2o", "kiwi", "fp16"], workers=workers))


def test_a_dead_worker_is_named_and_none_stays() -> None:
    before = set(active_children())
    with pytest.raises(KvpredError, match="fewer --workers"):
        list(fan_out(os._exit, [1, 1], workers=2))
    _wait_for(lambda: set(active_children()) <= before)


def test_bad_requests() -> None:
    with pytest.raises(UsageError, match="local, ray"):
        fan_out(get_method, NAMES, backend="slurm")
    with pytest.raises(UsageError, match="--workers 0"):
        fan_out(get_method, NAMES, workers=0)
    assert usable_cores() >= 1


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
def test_interrupt_ends_the_workers(tmp_path: Path) -> None:
    program = tmp_path / "endless.py"
    program.write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "from kvpred.simulation.fanout import fan_out\n"
        "def wait(number):\n"
        f"    Path({str(tmp_path)!r}, f'{{os.getpid()}}.pid').touch()\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    list(fan_out(wait, [0, 1], workers=2))\n"
    )
    parent = subprocess.Popen([sys.executable, str(program)], stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    parent.send_signal(signal.SIGINT)
    _, err = parent.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    assert parent.returncode != 0
    _wait_for(lambda: not any(_runs(worker) for worker in workers))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_ray_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"kvpred\[ray\]"):
        list(fan_out(get_method, NAMES, backend="ray"))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "nowhere.invalid:99999"])
def test_a_cluster_that_is_not_there_is_not_waited_for(address: str) -> None:
    with pytest.raises(UsageError, match="no Ray cluster at"):
        check_reachable(address)
    check_reachable("auto")


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """Address of a Ray cluster on this host, of one core."""
    ray = pytest.importorskip("ray", reason="pip install 'kvpred[ray]' brings Ray")
    started = ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield started.address_info["address"]
    ray.shutdown()


@pytest.mark.slow
def test_ray_does_the_same_work(ray_address: str) -> None:
    assert dict(fan_out(get_method, NAMES, backend="ray")) == METHODS
    with pytest.raises(UsageError, match="kiwi"):
        list(fan_out(get_method, ["kiwi"], backend="ray"))


@pytest.mark.slow
def test_capacity_is_the_same_on_an_existing_ray_cluster(ray_address: str) -> None:
    workload = ("--method", "fp16", "--requests", "100", "--output-len", "8")
    command = [sys.executable, "-m", "kvpred", "capacity", "--slo", "ttft-p99=1s", *workload]
    local, ray = (
        subprocess.run(
            [*command, "--format", "json", *more],
            env=os.environ | {"RAY_ADDRESS": ray_address},
            capture_output=True,
            text=True,
            check=False,
        )
        for more in (["--workers", "1"], ["--backend", "ray"])
    )
    assert (ray.returncode, ray.stdout) == (0, local.stdout), ray.stderr
    assert json.loads(ray.stdout)[0]["qps_per_replica"] > 0
