"""Sites of a grid, and sites that a predictor asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvpred.data.grids import read_grid_file
from kvpred.data.runs import Run, write_runs
from kvpred.data.sites import RunSite
from kvpred.errors import DataError, UsageError
from kvpred.workflows.measure_sites import MeasureGrid, measured_sites, planned_sites, spread

INT8 = "kv-int8"


def test_a_grid_leaves_out_what_is_too_large() -> None:
    sites = MeasureGrid(bsz=[1, 4], prompt_len=[100, 1000], output_len=10, max_tokens=1500).sites()

    assert sorted(map(str, sites)) == ["1 x 1,000", "1 x 100", "4 x 100"]


def test_an_early_end_leaves_the_corners_covered() -> None:
    sites = MeasureGrid(bsz=[1, 2, 4, 8], prompt_len=[256, 512, 1024, 2048]).sites()

    assert {str(site) for site in sites[:4]} == {"1 x 256", "8 x 2,048", "8 x 256", "1 x 2,048"}


def test_spreading_loses_no_site() -> None:
    sites = [RunSite(b, p) for b in (1, 3, 8) for p in (100, 700)]

    assert sorted(spread(sites)) == sorted(sites)
    assert spread([]) == []


def test_a_grid_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text("bsz = [1, 2]\nprompt_len = [128]\noutput_len = 8\n")

    assert [str(site) for site in read_grid_file(path, MeasureGrid).sites()] == ["1 x 128", "2 x 128"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bsz = [1", "not TOML"),
        ("bsz = [1]\n", "prompt_len"),
        ("bsz = []\nprompt_len = [1]\n", "bsz"),
        ("bsz = [0]\nprompt_len = [1]\n", r"bsz\.0"),
        ('bsz = [1]\nprompt_len = ["many"]\n', r"prompt_len\.0.*many"),
        ("bsz = [1]\nprompt_len = [1]\nrounds = 3\n", "rounds"),
    ],
)
def test_what_is_no_grid_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)

    with pytest.raises(DataError, match=message):
        read_grid_file(path, MeasureGrid)


def test_a_plan_for_a_fresh_machine_spans_batches_and_lengths(tmp_path: Path) -> None:
    plan = planned_sites(["fp16", INT8], tmp_path, model="smollm2-135m", n_sites=8)

    assert len(plan["fp16"]) == len(set(plan["fp16"])) == 8
    assert 2 <= len(plan[INT8]) <= 4
    assert {1, 8} <= {site.bsz for site in plan["fp16"]}
    lengths = [site.prompt_len for site in plan["fp16"]]
    assert max(lengths) >= 8 * min(lengths)


def test_a_plan_keeps_what_is_measured_and_completes_it(tmp_path: Path) -> None:
    first = planned_sites(["fp16"], tmp_path, model="smollm2-135m", n_sites=4)["fp16"]
    _write(tmp_path, first)

    more = planned_sites(["fp16"], tmp_path, model="smollm2-135m", n_sites=6)["fp16"]

    assert measured_sites(tmp_path) == {"fp16": first}
    assert more[:4] == first
    assert len(set(more)) == 6


def test_a_method_that_is_measured_needs_no_candidate(tmp_path: Path) -> None:
    known = [RunSite(1, length) for length in (256, 512, 1024, 2048)]
    _write(tmp_path, known)

    plan = planned_sites(["fp16", INT8], tmp_path, model="smollm2-135m", n_sites=4, bsz=(1,), max_tokens=4096)

    assert plan["fp16"] == known
    assert len(plan[INT8]) == 4


def test_runs_that_are_to_be_replaced_are_not_planned_around(tmp_path: Path) -> None:
    odd = RunSite(3, 777)
    _write(tmp_path, [odd])

    assert odd in planned_sites(["fp16"], tmp_path, model="smollm2-135m", n_sites=4)["fp16"]
    assert odd not in planned_sites(["fp16"], tmp_path, model="smollm2-135m", n_sites=4, resume=False)["fp16"]


def test_no_room_for_any_site_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="answers of 32 do not fit into max_tokens=200"):
        planned_sites(["fp16"], tmp_path, model="smollm2-135m", n_sites=4, max_tokens=200)


def _write(folder: Path, sites: list[RunSite]) -> None:
    runs = [_run(site, stage) for site in sites for stage in ("prefill", "decode")]
    write_runs(folder / "runs.csv", runs)


def _run(site: RunSite, stage: str) -> Run:
    return Run.model_validate(
        {
            "model": "smollm2-135m", "method": "fp16", "engine": "openvino", "device": "host-cpu",
            "bsz": site.bsz, "prompt_len": site.prompt_len, "output_len": site.output_len, "stage": stage,
            "throughput_tok_s": 100.0,
        }
    )  # fmt: skip
