"""Sites that are measured again tell how much slower a host became."""

from __future__ import annotations

import pytest

from kvpred.data.runs import Run
from kvpred.data.sites import pool_sites
from kvpred.evaluation.host_drift import control_sites, host_drift, without_drift
from tests.measured_runs import make_runs

BEFORE = make_runs(noise=0.0)
TABLE = pool_sites(BEFORE)


def slower(factor: float, stage: str) -> list[Run]:
    """Return the runs of a host on which a stage takes so many times longer."""
    return [
        run.model_copy(update={"throughput_tok_s": run.throughput_tok_s / factor})
        if run.stage == stage
        else run
        for run in BEFORE
    ]


def test_controls_are_calibrated_sites_of_the_middle() -> None:
    controls = control_sites(TABLE)

    tokens = sorted(int(b * p) for b, p in zip(TABLE.bsz, TABLE.prompt_len, strict=True))
    assert len(set(controls)) == 2
    assert all((site.bsz, site.prompt_len) in {(r.bsz, r.prompt_len) for r in BEFORE} for site in controls)
    assert all(tokens[0] < site.bsz * site.prompt_len < tokens[-1] for site in controls)


def test_drift_is_told_by_stage() -> None:
    assert host_drift(TABLE, slower(1.1, "decode")) == pytest.approx({"prefill": 1.0, "decode": 1.1})
    assert host_drift(TABLE, slower(0.8, "prefill")) == pytest.approx({"prefill": 0.8, "decode": 1.0})


def test_other_methods_say_nothing_of_the_host() -> None:
    others = [run for run in slower(2.0, "decode") if run.method != "fp16"]

    assert host_drift(TABLE, others) == {}


def test_sites_that_calibration_does_not_know_say_nothing() -> None:
    elsewhere = [run.model_copy(update={"prompt_len": run.prompt_len + 7}) for run in BEFORE]

    assert host_drift(TABLE, elsewhere) == {}


def test_taking_the_drift_out_gives_the_host_as_it_was() -> None:
    now = slower(1.25, "decode")

    steady = without_drift(now, host_drift(TABLE, now))

    assert [run.throughput_tok_s for run in steady] == pytest.approx([run.throughput_tok_s for run in BEFORE])
