"""Calibrating on few runs: what is learnt, how it is judged, and which runs are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from kvpred.data.runs import Run, write_runs
from kvpred.errors import DataError
from kvpred.predictors.crossval import SITE_BY_SITE
from kvpred.workflows.calibrating import Calibration, calibrate, spanning_sites, trusted
from kvpred.workflows.training import Measurements

# A small server's law: seconds of a prefill and of a decode step, and what each method multiplies.
ATTENTION = {"fp16": 1.0, "kv-int4": 1.3, "h2o": 1.0}
FIXED = {"fp16": 1.0, "kv-int4": 1.0, "h2o": 1.3}
FP16 = ((1, 256), (1, 4096), (2, 512), (2, 2048), (4, 256), (4, 1024), (8, 512), (8, 2048))
OTHERS = ((1, 2048), (2, 4096), (8, 256), (8, 1024))
SITES = {"fp16": FP16, "kv-int4": OTHERS, "h2o": OTHERS}

MakeRuns = Callable[..., list[Run]]


def step_s(method: str, stage: str, bsz: int, prompt_len: int) -> float:
    if stage == "prefill":
        return 0.02 + 2.6e-4 * bsz * prompt_len + 6e-8 * bsz * prompt_len**2
    attended = min(prompt_len, 512) if method == "h2o" else prompt_len + 15
    return 0.007 * FIXED[method] + 3e-4 * bsz + 1.7e-6 * ATTENTION[method] * bsz * attended


def runs_of(
    sites: Mapping[str, Iterable[tuple[int, int]]] = SITES,
    *,
    noise: float = 0.02,
    repeats: int = 3,
    **fields: object,
) -> list[Run]:
    rng = np.random.default_rng(0)
    return [
        Run(
            model="smollm2-135m",
            engine="openvino",
            device="host-cpu",
            method=method,
            bsz=bsz,
            prompt_len=prompt_len,
            output_len=32,
            stage=stage,
            throughput_tok_s=bsz
            * (prompt_len if stage == "prefill" else 1)
            / (step_s(method, stage, bsz, prompt_len) * np.exp(rng.normal(scale=noise))),
            repeat=repeat,
            **fields,
        )
        for method, places in sites.items()
        for bsz, prompt_len in places
        for stage in ("prefill", "decode")
        for repeat in range(repeats)
    ]


@pytest.fixture
def calibrated(tmp_path: Path) -> Callable[..., Calibration]:
    """Return a calibration on runs written to a file."""

    def from_runs(runs: list[Run], **options: object) -> Calibration:
        path = tmp_path / "runs.csv"
        write_runs(path, runs)
        return calibrate(Measurements(runs=[path]), **options)

    return from_runs


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    write_runs(path, runs_of())
    return calibrate(Measurements(runs=[path]))


def test_few_runs_teach_what_a_method_costs(learnt: Calibration) -> None:
    assert [one.method.partition(":")[0] for one in learnt.methods] == ["fp16", "h2o", "kv-int4"]
    int4 = next(one for one in learnt.methods if one.method == "kv-int4")
    cached = next(term for term in int4.stages[1].terms if term.name == "per attended token")
    assert cached.multiplier == pytest.approx(1.3, abs=0.1)
    assert cached.multiplier_error is not None
    assert 0 < cached.multiplier_error < 0.3


@pytest.mark.parametrize("method", ["fp16", "kv-int4", "h2o"])
def test_unseen_sites_are_predicted(learnt: Calibration, method: str) -> None:
    fits = learnt.predictor.stages["decode"].fits.fits
    name = next(name for name in fits if name.partition(":")[0] == method)
    for bsz, prompt_len in ((1, 1024), (3, 700), (4, 3000), (6, 1500)):
        length = 512 if method == "h2o" else prompt_len + 15
        predicted = float(fits[name].times(bsz=bsz, length=length))
        assert predicted == pytest.approx(step_s(method, "decode", bsz, prompt_len), rel=0.07)


def test_every_site_is_left_out_once(learnt: Calibration) -> None:
    for one in learnt.methods:
        for stage in one.stages:
            assert stage.n_left_out == stage.n_sites == len(FP16 if one.method == "fp16" else OTHERS)
            assert stage.n_runs == 3 * stage.n_sites
    assert set(learnt.predictor.accuracy) == {SITE_BY_SITE}


def test_a_quiet_server_is_a_good_basis(learnt: Calibration) -> None:
    assert learnt.verdict.word == "good", learnt.summary
    assert "Verdict: good" in learnt.summary[-2]


def test_the_next_run_is_new_and_in_the_range(learnt: Calibration) -> None:
    run = learnt.next_run
    assert run is not None
    measured = next(places for method, places in SITES.items() if run.method.startswith(method))
    assert (run.bsz, run.prompt_len) not in measured
    assert 1 <= run.bsz <= 8
    assert 256 <= run.prompt_len <= 4096


def test_repeats_that_scatter_are_no_good_basis(calibrated: Callable[..., Calibration]) -> None:
    found = calibrated(runs_of(noise=0.4))
    assert found.verdict.word == "unreliable"
    assert any(word in found.verdict.reason for word in ("scatter", "off by", "reach to", "sign"))


def test_a_method_with_one_site_cannot_be_judged(calibrated: Callable[..., Calibration]) -> None:
    found = calibrated(runs_of({"fp16": FP16, "kv-int4": OTHERS[:1]}))
    assert found.verdict.word == "unreliable"
    assert found.verdict.reason == "kv-int4: 1 sites of prefill are too few to be judged: measure 2"


def test_candidates_span_the_measured_range_within_its_largest_batch(learnt: Calibration) -> None:
    sites = spanning_sites(learnt.predictor.sites)
    assert {site.bsz for site in sites} == {1, 2, 4, 8}
    assert {site.prompt_len for site in sites} == {256, 512, 1024, 2048, 4096}
    assert max(site.bsz * site.prompt_len for site in sites) == 8 * 2048


# Marked runs


def test_marked_runs_count_only_where_there_are_no_others() -> None:
    clean = runs_of({"fp16": FP16[:1]})
    marked = runs_of({"fp16": FP16[:2]}, mark="busy host")
    kept, notes = trusted([*clean, *marked])
    assert [run for run in kept if run.mark is None] == clean
    assert {(run.bsz, run.prompt_len) for run in kept if run.mark} == {FP16[1]}
    (note,) = notes
    assert "12 of 18 runs are marked (busy host): 6 are left out, 6 are all that there is of" in note
    assert "fp16 decode 1 x 4,096" in note


def test_runs_without_marks_need_no_note() -> None:
    runs = runs_of({"fp16": FP16})
    assert trusted(runs) == (runs, [])


# What is refused


def test_mixed_hosts_are_refused_by_name(calibrated: Callable[..., Calibration]) -> None:
    runs = runs_of({"fp16": FP16}, host="here") + runs_of({"kv-int4": OTHERS}, host="there")
    with pytest.raises(DataError, match=r"runs\.csv: the runs are of 2 hosts \(here; there\).*--pool-hosts"):
        calibrated(runs)
    assert len(calibrated(runs, pool_hosts=True).methods) == 2


def test_mixed_versions_are_refused_by_name(calibrated: Callable[..., Calibration]) -> None:
    runs = runs_of({"fp16": FP16}, versions="engine 1") + runs_of({"kv-int4": OTHERS}, versions="engine 2")
    with pytest.raises(DataError, match=r"2 sets of versions \(engine 1; engine 2\)"):
        calibrated(runs)


def test_one_site_is_too_few_and_the_error_says_so(
    calibrated: Callable[..., Calibration],
) -> None:
    with pytest.raises(DataError, match=r"fp16 has 1 site of prefill \(1 x 256\).*at least 3.*--plan 8"):
        calibrated(runs_of({"fp16": FP16[:1]}))


def test_fp16_is_needed(calibrated: Callable[..., Calibration]) -> None:
    with pytest.raises(DataError, match="no runs of fp16"):
        calibrated(runs_of({"kv-int4": OTHERS}))


def test_a_method_needs_both_stages(calibrated: Callable[..., Calibration]) -> None:
    runs = [run for run in runs_of() if (run.method, run.stage) != ("h2o", "decode")]
    with pytest.raises(DataError, match=r"no decode runs of h2o: measure both stages"):
        calibrated(runs)
