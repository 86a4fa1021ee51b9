"""Scores of real answers: every answer on disk before the next, the same when resumed, nothing mixed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="pip install 'kvpred[profile]' brings torch and transformers")

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kvpred.data.journal import Progress
from kvpred.data.longbench import DATASETS, read_longbench
from kvpred.data.scores import read_score_runs
from kvpred.engines.base import Target
from kvpred.engines.transformers import Transformers
from kvpred.errors import DataError, UsageError
from kvpred.methods import get_method
from kvpred.models import get_model
from kvpred.workflows.measuring import MeasureRequest
from kvpred.workflows.prompting import get_cutter
from kvpred.workflows.score_plan import ScoreRequest, plan_scores
from kvpred.workflows.scoring import collect_scores, left_to_score, remarks, summary
from tests.made_up_samples import jsonl

WORDS = [f"w{number}" for number in range(60)]
METHODS = ("fp16", "kv-int8")
# Samples of each dataset, and words of each context: the last of hotpotqa's is too long for the limit.
SIZES = {"hotpotqa": (30, 40, 500), "triviaqa": (20, 25), "trec": (35,)}
MAX_TOKENS = 300


def record(dataset: str, place: int, n_words: int, answers: Sequence[str] = ("w1",)) -> dict[str, Any]:
    return {
        "_id": f"{dataset}{place}",
        "dataset": dataset,
        "input": f"{WORDS[place]} {WORDS[place + 7]}",
        "context": " ".join(WORDS[(3 * place + 7 * k) % 60] for k in range(n_words)),
        "answers": list(answers),
        "all_classes": ["w1", "w2", "w3"] if dataset == "trec" else None,
    }


def write_samples(path: Path, answers: dict[str, str] | None = None) -> Path:
    """Write the samples, with an answer of its own to those that are named."""
    records = [
        record(dataset, place, n_words)
        for dataset, sizes in SIZES.items()
        for place, n_words in enumerate(sizes)
    ]
    for one in records:
        if answers and one["_id"] in answers and one["dataset"] != "trec":
            one["answers"] = [answers[one["_id"]]]
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers whose tokeniser knows sixty words."""
    folder = tmp_path_factory.mktemp("wordy")
    vocabulary = {word: place for place, word in enumerate(["<end>", "?", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="?").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=32, eos_token_id=0, bos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def request_of(
    weights: Path, samples: Path, methods: Sequence[str] = METHODS, **changes: Any
) -> ScoreRequest:
    measure = MeasureRequest(
        engine="transformers",
        methods=dict.fromkeys(methods, ()),
        model=str(weights / "config.json"),
        weights=weights,
        dtype="float32",
        options={"threads": "1"},
    )
    return replace(ScoreRequest(samples=samples, measure=measure, max_tokens=MAX_TOKENS), **changes)


@pytest.fixture(scope="module")
def request_(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> ScoreRequest:
    """Samples whose right answers are what the model says under fp16, but for the classes of trec."""
    samples = write_samples(tmp_path_factory.mktemp("samples") / "samples.jsonl")
    plan, cutter = plan_scores(request_of(weights, samples)), get_cutter("own", weights)
    fp16 = get_method("fp16")
    engine = Transformers(
        Target(get_model(str(weights / "config.json")), weights=weights, dtype="float32"), [fp16]
    )
    said = {
        one.id: engine.complete(
            fp16, plan.prompt(one, cutter).text, max_tokens=DATASETS[one.dataset].max_new_tokens
        )
        for one in plan.chosen
    }
    write_samples(samples, said)
    return request_of(weights, samples)


@pytest.fixture(scope="module")
def scored(request_: ScoreRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole collection that kept its answers."""
    folder = tmp_path_factory.mktemp("scored")
    collect_scores(replace(request_, keep_answers=True), folder)
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    return [line for line in found if "score" in line]


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def interrupt_after(n_answers: int) -> Callable[[Progress], None]:
    def interrupt(progress: Progress) -> None:
        if progress.done == n_answers:
            raise KeyboardInterrupt

    return interrupt


def test_the_measured_samples_are_what_their_generator_makes(root: Path) -> None:
    file = root / "data" / "measured" / "scores" / "samples.jsonl"
    assert file.read_text() == jsonl()
    found = read_longbench(file)
    assert sum(map(len, found.values())) == 24 and len(found) == 12


@pytest.mark.slow
def test_every_sample_is_scored_under_every_method(scored: Path) -> None:
    runs = read_score_runs(scored)
    assert [name.partition("_")[0] for name in runs] == list(METHODS)
    for run in runs.values():
        assert {dataset: list(own) for dataset, own in run.scores.items()} == {
            dataset: [f"{dataset}{place}" for place in range(len(sizes))] for dataset, sizes in SIZES.items()
        }
    assert manifest(scored)["state"] == "finished"


@pytest.mark.slow
def test_answers_that_are_as_expected_score_1(scored: Path) -> None:
    fp16 = read_score_runs(scored, ["fp16"])["fp16"]
    said = {line["id"]: line["answer"] for line in lines(scored) if line["method"] == "fp16"}
    scores = fp16.scores["hotpotqa"] | fp16.scores["triviaqa"]
    # The model ends its answer to the longest prompt before a word: an empty one never scores.
    assert said["hotpotqa2"] == ""
    assert scores == {name: 1.0 if said[name] else 0.0 for name in scores}
    assert sum(scores.values()) == 4


@pytest.mark.slow
def test_methods_and_datasets_take_turns(scored: Path) -> None:
    found = [(line["id"], line["method"].partition(":")[0]) for line in lines(scored)]
    assert found[:6] == [
        ("hotpotqa0", "fp16"), ("hotpotqa0", "kv-int8"), ("triviaqa0", "kv-int8"), ("triviaqa0", "fp16"),
        ("trec0", "fp16"), ("trec0", "kv-int8"),
    ]  # fmt: skip
    assert [name for name, _ in found[6:]] == ["hotpotqa1", "hotpotqa1", "triviaqa1", "triviaqa1"] + [
        "hotpotqa2"
    ] * 2


@pytest.mark.slow
def test_features_tell_what_is_known_before_an_answer(scored: Path) -> None:
    rows = {row["id"]: row for row in csv.DictReader((scored / "features.csv").open())}
    assert len(rows) == sum(map(len, SIZES.values()))
    short, long = rows["hotpotqa0"], rows["hotpotqa2"]
    assert (short["task"], short["answers"], short["truncated"]) == ("multi-doc-qa", "1", "False")
    assert int(short["input_chars"]) == len("w0 w7")
    assert long["truncated"] == "True"
    assert MAX_TOKENS - 32 - 8 <= int(long["prompt_tokens"]) <= MAX_TOKENS - 32
    assert remarks(scored) == ["1 of 6 prompts were cut in the middle, to fit 300 tokens with their answers"]


@pytest.mark.slow
def test_the_manifest_tells_how_the_scores_were_made(scored: Path) -> None:
    told = manifest(scored)
    assert (told["engine"], told["max_tokens"], told["chat"]) == ("transformers", MAX_TOKENS, None)
    assert {proof["method"].partition(":")[0]: proof["took_effect"] for proof in told["proofs"]} == {
        "fp16": True, "kv-int8": True,
    }  # fmt: skip
    assert list(told["samples_sha256"]) == ["samples.jsonl"]
    assert sorted(told["score_files"]) == sorted(path.name for path in scored.glob("*_eval.json"))


@pytest.mark.slow
def test_a_method_added_later_leaves_only_samples_that_all_methods_have(
    scored: Path, request_: ScoreRequest, tmp_path: Path
) -> None:
    asked = replace(request_, datasets=["hotpotqa", "trec"], limit=1)
    alone = replace(asked, measure=replace(asked.measure, methods={"fp16": ()}))
    assert list(collect_scores(alone, tmp_path)["fp16"].scores) == ["hotpotqa", "trec"]

    # Two answers of fp16 are there, the third is kv-int8's.
    with pytest.raises(KeyboardInterrupt):
        collect_scores(asked, tmp_path, progress=interrupt_after(3))

    runs = read_score_runs(tmp_path)
    assert [list(run.scores) for run in runs.values()] == [["hotpotqa"], ["hotpotqa"]]
    assert remarks(tmp_path) == ["samples left out that some method has not answered yet: 1"]
    assert all("answer" in line for line in lines(scored))
    assert not any("answer" in line for line in lines(tmp_path))


@pytest.mark.slow
def test_an_interrupted_collection_goes_on_to_the_same_scores(
    scored: Path, request_: ScoreRequest, tmp_path: Path
) -> None:
    asked = replace(request_, keep_answers=True)
    with pytest.raises(KeyboardInterrupt):
        collect_scores(asked, tmp_path, progress=interrupt_after(3))
    # Two of the three answers make a sample whole.
    assert list(read_score_runs(tmp_path)["fp16"].scores) == ["hotpotqa"]
    assert sum(row["answers"] for row in left_to_score(asked, tmp_path)) == 12 - 3

    collect_scores(asked, tmp_path)

    for file in ("features.csv", *manifest(scored)["score_files"]):
        assert (tmp_path / file).read_text() == (scored / file).read_text()
    told, whole = (
        [{k: v for k, v in one.items() if k not in ("took_s", "at")} for one in lines(f)]
        for f in (tmp_path, scored)
    )
    assert told == whole


@pytest.mark.slow
def test_a_finished_folder_starts_no_engine(scored: Path, request_: ScoreRequest) -> None:
    def refuse(progress: Progress) -> None:
        raise AssertionError(progress.text)

    asked = replace(request_, keep_answers=True)
    runs = collect_scores(asked, scored, progress=refuse)
    rows = summary(runs)
    assert [row["dataset"] for row in rows] == [*SIZES, "mean"]
    assert rows[-1]["fp16"] == pytest.approx(sum(row["fp16"] for row in rows[:-1]) / 3)
    assert left_to_score(asked, scored) == []


@pytest.mark.slow
def test_no_budget_starts_nothing_and_files_appear_with_the_first_whole_sample(
    request_: ScoreRequest, tmp_path: Path
) -> None:
    assert collect_scores(replace(request_, limit=1, datasets=["trec"]), tmp_path, budget_s=0.0) == {}
    assert not list(tmp_path.glob("*_eval.json"))


def test_scores_made_otherwise_are_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    header = plan_scores(request_).header()
    (tmp_path / "scores.jsonl").write_text(json.dumps(header) + "\n")
    assert sum(row["answers"] for row in left_to_score(request_, tmp_path)) == 12
    with pytest.raises(UsageError, match="max_tokens was 300, now 400"):
        left_to_score(replace(request_, max_tokens=400), tmp_path)
    with pytest.raises(UsageError, match="chat was not there, now"):
        left_to_score(replace(request_, chat="{prompt}!"), tmp_path)
    other = write_samples(tmp_path / "samples.jsonl", {"hotpotqa0": "changed"})
    with pytest.raises(UsageError, match=r"samples_sha256\.samples\.jsonl was"):
        left_to_score(replace(request_, samples=other), tmp_path)


def test_a_damaged_journal_is_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    header = plan_scores(request_).header()
    (tmp_path / "scores.jsonl").write_text(f"{json.dumps(header)}\n{json.dumps({'score': 1.0})}\n")
    with pytest.raises(DataError, match="line 2: a score without its fields"):
        left_to_score(request_, tmp_path)


def test_a_choice_of_datasets_and_samples_leaves_the_others(request_: ScoreRequest, tmp_path: Path) -> None:
    asked = replace(request_, datasets=["hotpotqa", "trec"], limit=2)
    rows = left_to_score(asked, tmp_path)
    assert {(row["dataset"], row["answers"]) for row in rows} == {("hotpotqa", 2), ("trec", 1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": ["hotpot"]}, "did you mean hotpotqa"),
        ({"datasets": ["qasper"]}, "has no samples of qasper; it has those of hotpotqa, triviaqa, trec"),
        ({"limit": 0}, "limit=0"),
        ({"max_tokens": 60}, "leaves no room for a prompt beside an answer of up to 64"),
        ({"max_tokens": 3000}, "more than the 2,048 tokens"),
        ({"chat": "user: "}, "write {prompt} once"),
        ({"tokenizer": "llama-9"}, "neither known"),
    ],
)
def test_senseless_requests_are_refused(
    change: dict[str, Any], message: str, request_: ScoreRequest, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        collect_scores(replace(request_, **change), tmp_path)


def test_random_weights_are_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    random = replace(request_, measure=replace(request_.measure, weights=None))
    with pytest.raises(UsageError, match="random ones answer nonsense"):
        collect_scores(random, tmp_path)


def test_a_method_that_the_engine_does_not_serve_is_refused(request_: ScoreRequest, tmp_path: Path) -> None:
    other = replace(request_.measure, engine="transformers-eager", methods={"h2o": ()})
    with pytest.raises(UsageError, match="does not serve h2o"):
        collect_scores(replace(request_, measure=other), tmp_path)
