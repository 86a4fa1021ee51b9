"""The published scores, counted once more without kvpred, sample by sample."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from kvpred.data.scores import ScoreRun, read_score_runs
from kvpred.evaluation.negatives import Center, Definition, find_negatives

PERCENT = (1, 2, 4, 8, 10, 16, 24, 32)
SETUP = "Meta-Llama-3-8B-instruct_8192_b1"
HF = f"hf_{SETUP}"
SHORT = {
    "kivi-4": f"kivi_{SETUP}_4bits_group32_residual128",
    "kivi-2": f"kivi_{SETUP}_2bits_group32_residual128",
    "gear-4": f"gear_{SETUP}_4bits",
} | {
    f"{name}-{budget}": f"{name}_{SETUP}_c{budget}_w64_k7_maxpool"
    for name in ("h2o", "streamingllm")
    for budget in (256, 512, 1024)
}
INTERSECTIONS = [
    "kivi-4+gear-4",
    "kivi-4+kivi-2",
    "kivi-2+gear-4+streamingllm-512",
    "h2o-512+streamingllm-512",
    "h2o-256+h2o-512+h2o-1024",
    "kivi-4+gear-4+h2o-512+streamingllm-512",
    "kivi-2+h2o-1024",
    "streamingllm-256+streamingllm-512+streamingllm-1024+kivi-4",
]
TASKS = {
    "2wikimqa": "multi-doc-qa", "gov_report": "summarization", "hotpotqa": "multi-doc-qa", "lcc": "code",
    "multi_news": "summarization", "multifieldqa_en": "single-doc-qa", "passage_count": "synthetic",
    "passage_retrieval_en": "synthetic", "qasper": "single-doc-qa", "qmsum": "summarization",
    "repobench-p": "code", "samsum": "few-shot", "trec": "few-shot", "triviaqa": "few-shot",
}  # fmt: skip


Published = dict[str, dict[str, dict[str, float]]]


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Published:
    """The published scores by run, dataset and id, read without kvpred."""
    found: Published = {}
    for path in (shared_data / "longbench_scores").glob("*_eval.json"):
        (dataset,) = [name for name in TASKS if path.name.endswith(f"_{name}_eval.json")]
        run = path.name[: -len(f"_{dataset}_eval.json")]
        found.setdefault(run, {})[dataset] = {
            str(item["id"]): item["score"] for item in json.loads(path.read_text())
        }
    return found


@pytest.fixture(scope="module")
def runs(shared_data: Path) -> dict[str, ScoreRun]:
    return read_score_runs(shared_data / "longbench_scores")


def recounted(
    published: Published, methods: list[str], percent: int, center: str, definition: str
) -> dict[str, dict[str, list[str]]]:
    """Benign and negative ids by dataset, sample by sample."""
    found = {}
    for dataset in TASKS:
        if not all(dataset in published[run] for run in [HF, *methods]):
            continue
        base = published[HF][dataset]
        ordered = sorted(base.values())
        half = len(ordered) // 2
        middle = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
        if center == "mean":
            middle = float(sum(map(Fraction, ordered)) / len(ordered))
        benign, negative = [], []
        for key, b in base.items():
            if b < middle or (definition == "algorithm" and b == 0):
                continue
            benign.append(key)
            broken = 0
            for run in methods:
                if not b * (1 - percent / 100) < published[run][dataset][key]:
                    broken += 1
            if broken == len(methods):
                negative.append(key)
        found[dataset] = {"benign": benign, "negative": negative}
    return found


@pytest.mark.parametrize("center", ["median", "mean"])
@pytest.mark.parametrize("definition", ["algorithm", "artifact"])
@pytest.mark.parametrize("group", [*SHORT, *INTERSECTIONS])
def test_published_scores_recounted_in_another_way_give_the_same_samples(
    published: Published, runs: dict[str, ScoreRun], group: str, definition: str, center: str
) -> None:
    methods = [SHORT[name] for name in group.split("+")]
    for percent in PERCENT:
        found = find_negatives(
            runs[HF],
            [runs[name] for name in methods],
            threshold=percent / 100,
            center=Center(center),
            definition=Definition(definition),
        )
        expected = recounted(published, methods, percent, center, definition)
        assert {part.dataset: list(part.benign) for part in found.datasets} == {
            dataset: parts["benign"] for dataset, parts in expected.items()
        }
        assert {part.dataset: list(part.negative) for part in found.datasets} == {
            dataset: parts["negative"] for dataset, parts in expected.items()
        }
        counts = {name: len(parts["negative"]) for name, parts in expected.items()}
        assert (found.by_dataset(), found.count) == (counts, sum(counts.values()))
        twice = counts["passage_count"] if definition == "artifact" else 0
        assert found.listed_count == found.count + twice
        by_task: dict[str, int] = {}
        for dataset, count in counts.items():
            by_task[TASKS[dataset]] = by_task.get(TASKS[dataset], 0) + count
        assert found.by_task() == by_task
        assert found.missing == (("qmsum",) if "h2o" in group else ())


@pytest.mark.parametrize(
    ("definition", "count", "listed"),
    [
        # Of passage_count's 200 samples, fp16 and KIVI both score 0 on 192, and KIVI breaks 2 others. The
        # published script adds these 194 twice: once for each time that its list names the dataset.
        ("artifact", 102 + 192, 294 + 194),
        ("algorithm", 102, 102),
    ],
)
def test_kivi_4_at_10_percent_breaks_as_many_as_is_known(
    runs: dict[str, ScoreRun], definition: str, count: int, listed: int
) -> None:
    found = find_negatives(
        runs[HF], [runs[SHORT["kivi-4"]]], threshold=0.1, definition=Definition(definition)
    )
    assert (found.count, found.listed_count) == (count, listed)
