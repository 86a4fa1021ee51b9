"""Risks of requests: what can be told beforehand is found, what cannot is not, and counts match."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kvpred.data.longbench import DATASETS, Task
from kvpred.data.risk import SIZES, Sizes, read_risk
from kvpred.data.scores import ScoreRun, read_score_runs
from kvpred.errors import DataError
from kvpred.evaluation.negatives import Negatives, find_negatives
from kvpred.evaluation.risk import BEATS, NO_BETTER, RiskStudy, judge_risk
from kvpred.evaluation.risk_classifier import Requests, base_rate, classify, held_out, requests_of

N = 40
TASKS = {name: dataset.task for name, dataset in DATASETS.items()}
# Every dataset added to a study costs: each is held out, and each of the others within that.
SOME = ("lcc", "multifieldqa_en", "qasper", "repobench-p", "samsum", "trec")


def made_up(breaks: Callable[[str, int], bool], datasets: tuple[str, ...] = tuple(DATASETS)) -> Negatives:
    """Return requests that fp16 always answers, and of which a method fails some."""
    right = {name: {str(n): 1.0 for n in range(N)} for name in datasets}
    own = {name: {str(n): float(not breaks(name, n)) for n in range(N)} for name in datasets}
    return find_negatives(ScoreRun("fp16", right), [ScoreRun("kivi", own)], threshold=0.1)


def of_task(name: str, n: int) -> bool:
    """Break 3 in 5 requests of few-shot learning and code, and 1 in 20 of others."""
    return n % 20 < (12 if TASKS[name] in (Task.few_shot, Task.code) else 1)


def requests(broken: dict[str, tuple[int, int]], tasks: tuple[str, ...]) -> Requests:
    """Return requests of datasets, each with its numbers of broken and of all."""
    counts = broken.values()
    return Requests(
        np.repeat(list(broken), [n for _, n in counts]),
        np.repeat(tasks, [n for _, n in counts]),
        np.zeros((sum(n for _, n in counts), 0)),
        np.concatenate([np.arange(n) < lost for lost, n in counts]),
    )


def test_negative_samples_are_broken_and_other_benign_ones_kept() -> None:
    fp16 = ScoreRun("fp16", {"trec": {"a": 1.0, "b": 1.0, "c": 0.4}, "lcc": {"a": 0.5, "b": 0.0}})
    kivi = ScoreRun("kivi", {"trec": {"a": 0.9, "b": 1.0, "c": 0.0}, "lcc": {"a": 0.46, "b": 0.0}})
    found = requests_of(find_negatives(fp16, [kivi], threshold=0.1))
    # Medians are 1.0 and 0.25, so that c of trec and b of lcc are not benign; 0.46 > 0.9 * 0.5 >= 0.45.
    assert [*zip(found.dataset, found.task, found.broken, strict=True)] == [
        ("lcc", "code", False),
        ("trec", "few-shot", True),
        ("trec", "few-shot", False),
    ]
    assert found.sizes.shape == (3, 0)


def test_each_dataset_is_predicted_from_the_others_alone() -> None:
    found = requests(
        {"trec": (2, 10), "lcc": (6, 10), "qmsum": (1, 20)}, ("few-shot", "code", "summarization")
    )
    rates = held_out(found, base_rate)
    assert rates[[0, 10, 20]] == pytest.approx([7 / 30, 3 / 30, 8 / 20])


@pytest.mark.parametrize(("broken", "rate"), [(0, 0.5 / 11), (10, 10.5 / 11)], ids=["none", "all"])
def test_rates_are_never_sure(broken: int, rate: float) -> None:
    known = requests({"trec": (broken, 10)}, ("few-shot",))
    asked = requests({"lcc": (1, 2)}, ("code",))
    for predict in (base_rate, classify):
        assert predict(known, asked).tolist() == pytest.approx([rate, rate])


def test_a_weak_penalty_gives_each_task_type_its_own_share() -> None:
    known = requests({"trec": (60, 100), "lcc": (10, 100)}, ("few-shot", "code"))
    asked = requests({"samsum": (0, 1), "repobench-p": (0, 1)}, ("few-shot", "code"))
    assert classify(known, asked, strength=1e4) == pytest.approx([0.6, 0.1], abs=1e-3)
    assert classify(known, asked, strength=1e-6) == pytest.approx([0.35, 0.35], abs=1e-3)


def test_probabilities_match_what_they_were_learnt_from() -> None:
    known = requests(
        {"trec": (31, 70), "lcc": (5, 90), "qmsum": (20, 60)}, ("few-shot", "code", "summarization")
    )
    assert classify(known, known).mean() == pytest.approx(56 / 220, abs=1e-3)


@pytest.fixture(scope="module")
def told() -> RiskStudy:
    """The study of requests that break by their task type."""
    return judge_risk(made_up(of_task))


def test_task_types_that_tell_are_found_to(told: RiskStudy) -> None:
    found = told
    assert found.verdict == BEATS
    # 5 datasets with 24 broken of 40, 9 with 2 of 40. Right order: 120 * 342; ties: 120 * 80 and 18 * 342.
    assert found.auc.value == pytest.approx((120 * 342 + (120 * 80 + 18 * 342) / 2) / (138 * 422), abs=0.01)
    assert 0 < found.skill.low < found.skill.value < found.skill.high < 1
    assert found.brier_skill.low > 0
    for group in found.bins:
        assert group.predicted == pytest.approx(group.observed, abs=0.05)
    assert found.known == ("task type",)


def test_what_differs_by_dataset_alone_is_not_told_by_the_task_type() -> None:
    # One dataset of every task type breaks often: the others of its type do not.
    often = {"qasper", "hotpotqa", "qmsum", "trec", "passage_count", "lcc"}
    found = judge_risk(made_up(lambda name, n: n < (20 if name in often else 2)))
    assert found.verdict == NO_BETTER
    assert found.skill.value < 0
    assert found.auc.value < 0.5


def test_held_out_base_rates_rank_datasets_the_wrong_way_round() -> None:
    found = judge_risk(made_up(lambda name, n: n < list(DATASETS).index(name)))
    assert found.base_auc < 0.35
    # Two datasets that break 2 and 8 of 10 are predicted 0.8 and 0.2. Of the 100 pairs of a broken and a kept
    # request 2 * 2 stand right, 2 * 8 and 8 * 2 are equal.
    two = requests({"trec": (2, 10), "lcc": (8, 10)}, ("few-shot", "code"))
    rates = held_out(two, base_rate)
    pairs = rates[two.broken][:, None] - rates[~two.broken]
    assert ((pairs > 0).sum() + (pairs == 0).sum() / 2) / pairs.size == 0.2


def test_sizes_tell_what_the_task_type_does_not() -> None:
    def long(name: str, n: int) -> bool:
        return (7 * n) % N >= 30

    sizes: Sizes = {name: {str(n): (100 * (1 + (7 * n) % N), 50, 400) for n in range(N)} for name in DATASETS}
    negatives = made_up(long, SOME)
    alone, together = judge_risk(negatives), judge_risk(negatives, sizes=sizes)
    assert alone.verdict == NO_BETTER
    assert alone.auc.value == pytest.approx(0.5)
    assert together.verdict == BEATS
    assert together.auc.value > 0.99
    assert together.known == ("task type", *(name.replace("_", " ") for name in SIZES))


def test_chance_saves_none_of_the_loss_on_average() -> None:
    skills = []
    for seed in range(5):
        luck = np.random.default_rng(seed).random((len(SOME), N)) < 0.2
        study = judge_risk(made_up(lambda name, n, luck=luck: bool(luck[SOME.index(name), n]), SOME))
        skills.append(study.skill.value)
    assert np.mean(skills) < 0.01


def test_nothing_broken_is_no_error() -> None:
    found = judge_risk(made_up(lambda name, n: False))
    assert np.isnan([found.auc.value, found.auc.low, found.base_auc]).all()
    assert (found.skill.value, found.verdict) == (0.0, NO_BETTER)
    assert (found.shares[-1].broken, found.shares[-1].low) == (0, 0.0)
    assert 0 < found.shares[-1].high < 0.01


def test_shares_are_counted_by_task_type(told: RiskStudy) -> None:
    found = told.shares
    assert [row.task for row in found] == [*Task, "all"]
    # Datasets, requests and broken ones of each type, then of all.
    assert [(row.datasets, row.benign, row.broken) for row in found] == [
        (2, 80, 4), (2, 80, 4), (3, 120, 6), (3, 120, 72), (2, 80, 4), (2, 80, 48), (14, 560, 138),
    ]  # fmt: skip
    assert all(row.low <= row.share <= row.high for row in found)


def test_the_same_seed_gives_the_same_study() -> None:
    negatives = made_up(of_task, SOME)
    assert judge_risk(negatives, seed=3) == judge_risk(negatives, seed=3)


def test_too_few_datasets_are_refused() -> None:
    with pytest.raises(DataError, match=r"kivi cannot be judged: .* of 4 datasets, and it takes 5"):
        judge_risk(made_up(of_task, ("lcc", "trec", "qmsum", "qasper")))


def test_missing_sizes_are_named() -> None:
    sizes: Sizes = {name: {str(n): (1, 1, 1) for n in range(N - (name == "trec"))} for name in DATASETS}
    with pytest.raises(DataError, match=r"features\.csv has no sizes of request '39' of trec"):
        judge_risk(made_up(of_task), sizes=sizes)


def recounted(folder: Path, run: str) -> dict[Task, tuple[int, int]]:
    """Count benign and broken requests straight from the files."""
    found: dict[Task, tuple[int, int]] = {}
    for name, dataset in DATASETS.items():
        path = folder / f"{run}_{name}_eval.json"
        if not path.exists():
            continue
        full = (folder / f"hf_Meta-Llama-3-8B-instruct_8192_b1_{name}_eval.json").read_text()
        base = [item["score"] for item in json.loads(full)]
        own = [item["score"] for item in json.loads(path.read_text())]
        middle = np.median(base)
        well = [(b, c) for b, c in zip(base, own, strict=True) if b >= middle and b > 0]
        benign, broken = found.get(dataset.task, (0, 0))
        found[dataset.task] = (benign + len(well), broken + sum(c <= b * (1 - 0.1) for b, c in well))
    return found


def test_packaged_counts_are_those_of_the_published_scores(shared_data: Path) -> None:
    rows = read_risk()
    for run in {row.published_as for row in rows}:
        counts = {row.task: (row.benign, row.broken) for row in rows if row.published_as == run}
        del counts["all"]
        assert counts == recounted(shared_data / "longbench_scores", run)


def test_kivi_at_four_bits_breaks_102_requests_of_which_the_task_type_tells_little(shared_data: Path) -> None:
    folder = shared_data / "longbench_scores"
    base, kivi = read_score_runs(folder, ["hf", "kivi_4"]).values()
    found = judge_risk(find_negatives(base, [kivi], threshold=0.1))
    assert found.shares[-1].broken == 102
    packaged = next(row for row in read_risk() if row.published_as == kivi.name and row.task == "all")
    assert found.auc.value == pytest.approx(packaged.auc, abs=1e-4)
    assert found.skill.value == pytest.approx(packaged.skill, abs=1e-4)
