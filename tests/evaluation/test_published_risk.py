"""Which published share speaks of a method's requests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvpred.data.longbench import Task
from kvpred.data.quality import read_quality
from kvpred.data.risk import PublishedRisk, read_risk
from kvpred.errors import UsageError
from kvpred.evaluation.published_risk import broken_requests, get_task
from kvpred.evaluation.quality import quality_of
from kvpred.methods import get_method

KIVI = "kivi:bits=4,group_size=32,residual_length=128"
QUALITY = {spec: quality_of(get_method(spec), read_quality()) for spec in (KIVI, "h2o", "fp16", "kv-fp8")}


def with_skill(low: float) -> list[PublishedRisk]:
    """Return the packaged table as if the task type had told that much of KIVI's requests."""
    return [replace(row, skill_low=low) if row.method_params == KIVI else row for row in read_risk()]


def test_methods_without_a_published_run_have_no_share() -> None:
    assert broken_requests(QUALITY, read_risk()).shares.keys() == {KIVI, "h2o"}


def test_a_method_has_the_share_of_the_run_that_speaks_of_it() -> None:
    found = broken_requests(QUALITY, read_risk()).shares
    assert (found[KIVI].method_params, found[KIVI].task) == (KIVI, "all")
    assert found["h2o"].method_params == "h2o:heavy=448,recent=64"


@pytest.mark.parametrize(
    ("skill_low", "task", "of"),
    [
        (0.01, Task.code, "code"),
        (0.01, None, "all"),
        (0.0, Task.code, "all"),
        (-0.1, Task.code, "all"),
    ],
    ids=["told", "not asked", "at the base rate", "worse"],
)
def test_the_task_types_share_stands_only_where_it_tells_more(
    skill_low: float, task: Task | None, of: str
) -> None:
    found = broken_requests(QUALITY, with_skill(skill_low), task=task)
    assert found.shares[KIVI].task == of
    assert found.task is task


def test_a_task_type_that_a_run_lacks_leaves_the_base_rate() -> None:
    rows = [row for row in with_skill(0.01) if row.task != "code"]
    assert broken_requests(QUALITY, rows, task=Task.code).shares[KIVI].task == "all"


@pytest.mark.parametrize("spelling", ["single-doc-qa", "Single_Doc_QA", " single doc qa "])
def test_task_types_are_found_however_spelt(spelling: str) -> None:
    assert get_task(spelling) is Task.single_doc_qa


def test_unknown_task_types_are_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'sumarization' is not known\. Did you mean summarization\?"):
        get_task("sumarization")
    with pytest.raises(UsageError, match="Known task types: single-doc-qa, multi-doc-qa"):
        get_task("?")
