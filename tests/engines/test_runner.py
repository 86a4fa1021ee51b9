"""Measuring a real engine on a tiny model: the journal, the tables, going on, and refusals."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kvpred.data.runs import read_runs
from kvpred.data.sites import RunSite
from kvpred.engines.base import Engine, EngineError, Target, Usage
from kvpred.engines.load import OtherLoad
from kvpred.engines.plan import MeasurePlan
from kvpred.engines.runner import FILES, JOURNAL, MANIFEST, RUNS, Measurement
from kvpred.engines.transformers import Transformers
from kvpred.engines.watch import Watch
from kvpred.errors import DataError, UsageError
from kvpred.methods import Method, get_method
from tests.tiny import TINY

SITES = [RunSite(1, 64, 4), RunSite(2, 96, 4)]
INT8 = get_method("kv-int8").spec


class Present(Transformers):
    """The engine in this very process, as a server's would be: starting torch elsewhere takes seconds."""

    remote = True
    random_weights = True


class Deceiving(Present):
    """Serves fp16 whatever it is asked for, as engines do that ignore an option."""

    def usage(self, method: Method, *, prompt_len: int, output_len: int) -> Usage | None:
        return super().usage(get_method("fp16"), prompt_len=prompt_len, output_len=output_len)


def plan(engine: type[Engine] = Present, *, repeats: int = 2, seed: int = 0) -> MeasurePlan:
    target = Target(TINY, dtype="float32", max_tokens=1100, max_bsz=2, max_seq_len=1100, seed=seed)
    sites = {"fp16": SITES, INT8: SITES}
    return MeasurePlan(engine, target, sites, repeats, "host-cpu", "a processor")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished measurement: two methods, two sites, two rounds."""
    folder = tmp_path_factory.mktemp("measured")
    Measurement(plan(), folder).run()
    return folder


def test_a_table_of_runs_is_written_that_reads_as_such(folder: Path) -> None:
    runs = read_runs(folder / RUNS)

    assert len(runs) == 2 * 2 * 2 * 2
    assert {run.stage for run in runs} == {"prefill", "decode"}
    assert {run.method_params for run in runs} == {"fp16", INT8}
    assert {run.repeat for run in runs} == {0, 1}
    assert all(run.host == "a processor" and run.versions and run.measured_at for run in runs)
    assert {(run.bsz, run.prompt_len, run.output_len) for run in runs} == {(1, 64, 4), (2, 96, 4)}


def test_throughput_is_tokens_over_the_stages_time(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    done = next(line for line in lines if "run" in line and line["bsz"] == 2)
    runs = [
        run
        for run in read_runs(folder / RUNS)
        if (run.method_params, run.bsz, run.repeat) == (done["method"], 2, done["repeat"])
    ]
    prefill, decode = sorted(runs, key=lambda run: run.stage == "decode")

    assert prefill.throughput_tok_s == pytest.approx(2 * 96 / done["run"]["prefill_time_s"])
    assert decode.throughput_tok_s == pytest.approx(2 / done["run"]["tpot_s"])
    assert decode.latency_s == pytest.approx(done["run"]["e2e_s"] - done["run"]["prefill_time_s"])


def test_the_manifest_tells_versions_settings_and_proofs(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())

    assert manifest["runs"] == 8
    assert manifest["versions"].keys() >= {"kvpred", "torch", "transformers"}
    assert manifest["settings"][INT8]["attention"] == "kvpred"
    assert [proof["took_effect"] for proof in manifest["proofs"]] == [True, True]
    assert [proof["sound"] for proof in manifest["proofs"]] == [None, None]


def test_a_finished_measurement_makes_no_run_again(folder: Path) -> None:
    before = (folder / JOURNAL).read_bytes()

    class Unstartable(Present):
        def __init__(self, *_: object) -> None:
            raise AssertionError("nothing is left to measure")

    runs = Measurement(plan(Unstartable), folder).run()

    assert len(runs) == 16
    assert (folder / JOURNAL).read_bytes() == before


def test_more_rounds_are_added_to_those_made(tmp_path: Path) -> None:
    Measurement(plan(repeats=1), tmp_path).run()
    first = (tmp_path / JOURNAL).read_text()

    runs = Measurement(plan(repeats=2), tmp_path).run()

    assert (tmp_path / JOURNAL).read_text().startswith(first)
    assert len(runs) == 16
    assert len({(run.method, run.bsz, run.stage, run.repeat) for run in runs}) == 16


def test_a_torn_line_is_measured_again(tmp_path: Path) -> None:
    Measurement(plan(repeats=1), tmp_path).run()
    journal = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(journal[:-20])

    measurement = Measurement(plan(repeats=1), tmp_path)

    assert len(measurement.todo()) == 1
    assert len(measurement.run()) == 8


def test_no_run_starts_that_the_budget_has_no_room_for(tmp_path: Path) -> None:
    assert Measurement(plan(), tmp_path).run(budget_s=0.0) == []
    assert not any((tmp_path / name).exists() for name in FILES if name != JOURNAL)


def test_least_rounds_are_made_whatever_the_budget(tmp_path: Path) -> None:
    made = Measurement(plan(), tmp_path).run(budget_s=0.0, least_rounds=1)
    assert {run.repeat for run in made} == {0}
    assert {run.method_params for run in made} == {"fp16", INT8}


def test_another_measurement_is_not_mixed_in(folder: Path) -> None:
    with pytest.raises(UsageError, match="seed was 0, now 1"):
        Measurement(plan(seed=1), folder)


@pytest.mark.parametrize("lost", ["took_s", "tpot_s"])
def test_a_damaged_journal_is_named_with_its_line(folder: Path, tmp_path: Path, lost: str) -> None:
    lines = (folder / JOURNAL).read_text().splitlines()
    row = next(number for number, line in enumerate(lines) if '"run"' in line)
    lines[row] = lines[row].replace(f'"{lost}"', '"lost"')
    (tmp_path / JOURNAL).write_text("\n".join(lines) + "\n")

    with pytest.raises(DataError, match=rf"measure\.jsonl, line {row + 1}: a run without {lost}"):
        Measurement(plan(), tmp_path)


def test_a_file_is_no_folder_to_measure_into(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()

    with pytest.raises(UsageError, match="taken is a file"):
        Measurement(plan(), tmp_path / "taken")


def test_other_versions_are_not_mixed_in(tmp_path: Path) -> None:
    Measurement(plan(repeats=1), tmp_path).run()
    journal = (tmp_path / JOURNAL).read_text()
    (tmp_path / JOURNAL).write_text(journal.replace('"transformers": "', '"transformers": "0.'))

    with pytest.raises(UsageError, match=r"holds runs of .*transformers 0\."):
        Measurement(plan(repeats=2), tmp_path).run()


def test_a_method_that_did_not_take_effect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"kv-int8 did not take effect.*1\.00 of fp16's bytes"):
        Measurement(plan(Deceiving), tmp_path).run()

    assert not (tmp_path / RUNS).exists()


def test_a_run_beside_another_busy_process_is_marked(tmp_path: Path) -> None:
    class Local(Present):
        remote = False

    measuring = plan(Local)
    engine = Local(measuring.target, [get_method("fp16"), get_method("kv-int8")])
    watch = Watch(measuring, dict.fromkeys(measuring.sites, engine))

    class Crowded(OtherLoad):
        def cores_busy(self) -> float:
            return 0.5 * self.cores

    watch._load = Crowded()
    line = watch.measure(measuring.visits()[0])

    assert line["mark"] == "busy host"


@pytest.mark.alone
def test_other_load_sees_others_and_not_this_process() -> None:
    load = OtherLoad()
    load.start()
    _spin(0.5)
    own = load.cores_busy()
    load.start()
    child = os.fork()
    if not child:
        # Not a child of this process any more: a grandchild whose parent is gone.
        if os.fork() == 0:
            _spin(1.5)
        os._exit(0)
    os.waitpid(child, 0)
    _spin(0.0)
    import time

    time.sleep(1.0)
    others = load.cores_busy()

    assert others > own + 0.3


def _spin(seconds: float) -> None:
    import time

    end = time.process_time() + seconds
    while time.process_time() < end:
        math.sqrt(2.0)


def test_an_output_of_one_token_times_prefill_alone(tmp_path: Path) -> None:
    one = replace(plan(repeats=1), sites={"fp16": [RunSite(1, 64, 1)]})

    runs = Measurement(one, tmp_path).run()

    assert [run.stage for run in runs] == ["prefill"]
