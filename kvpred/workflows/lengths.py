"""From conversation files to models of response lengths, and to the conversations that they are asked of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvpred.data.chat_files import ChatFile, read_conversations
from kvpred.data.conversations import Conversation, Turn, TurnTable, turns_of
from kvpred.data.files import check_replaceable
from kvpred.data.journal import Progress
from kvpred.data.lengths import LengthRun, read_lengths
from kvpred.data.tokenizers import ESTIMATED, get_counter
from kvpred.errors import DataError, UsageError
from kvpred.evaluation.length_accuracy import INTERVAL, Truth, ratio_scores
from kvpred.methods import BASELINE, get_method
from kvpred.predictors.length import bundle
from kvpred.predictors.length.base import LengthDistributions, LengthPredictor, fold_of
from kvpred.predictors.length.crossfit import DEFAULT_FOLDS, cross_fit
from kvpred.predictors.length.fast import FastPredictor
from kvpred.predictors.length.longformer import LongformerConfig, LongformerPredictor
from kvpred.predictors.length.model import LengthModel, group_key
from kvpred.predictors.length.stacked import StackedPredictor

_SMOKE_CONVERSATIONS, _SMOKE_FOLDS = 80, 2
MODELS = (FastPredictor.name, LongformerPredictor.name, StackedPredictor.name)


@dataclass(frozen=True, slots=True)
class Answered:
    """Which answers a model learns from, or is judged by.

    Parameters
    ----------
    data : sequence of Path
        Files of conversations.
    tokenizer : str
        See `kvpred.data.tokenizers.get_counter`; files that count tokens themselves are taken at their word.
    cut_tokens : int, optional
        Where answers were cut, if their pile-up does not tell.
    method : str
        What the answers were served with.
    lengths : sequence of Path
        Collected lengths of answers to the conversations' messages; the answers in the files, if not given.
    """

    data: Sequence[Path]
    tokenizer: str = ESTIMATED
    cut_tokens: int | None = None
    method: str = BASELINE
    lengths: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Training:
    """How to train.

    Parameters
    ----------
    model : str
        ``lightgbm``, ``longformer`` or ``stacked``.
    n_folds : int
    seed : int
    base : Path, optional
        Bundle of the model to stack on; its folds are taken.
    work : Path, optional
        Folder of a Longformer's checkpoints.
    longformer : LongformerConfig
    smoke : bool
        Whether to learn from few conversations only, in two folds, to see that all works.
    provenance : str, optional
    """

    model: str = FastPredictor.name
    n_folds: int = DEFAULT_FOLDS
    seed: int = 0
    base: Path | None = None
    work: Path | None = None
    longformer: LongformerConfig = field(default_factory=LongformerConfig)
    smoke: bool = False
    provenance: str | None = None


def train_length(
    answered: Answered, training: Training, *, progress: Callable[[Progress], None] | None = None
) -> LengthModel:
    """Train a model of response lengths.

    Raises
    ------
    UsageError
        If a name is unknown, or options do not go together.
    DataError
        If a file is wrong, or there are fewer than 20 conversations.
    MissingExtraError
        If a library is not installed.
    """
    make, n_folds = _maker(training)
    table = read_answered(answered)
    turns = table.turns
    if training.smoke:
        few = set(sorted({turn.group for turn in turns})[:_SMOKE_CONVERSATIONS])
        turns, n_folds = tuple(turn for turn in turns if turn.group in few), _SMOKE_FOLDS
    names = ", ".join(path.name for path in (*answered.data, *answered.lengths))
    model = cross_fit(
        make,
        turns,
        n_folds=n_folds,
        method_params=get_method(answered.method).spec,
        provenance=training.provenance or f"{len(turns):,} answers of {names}",
        facts={
            "tokenizer": "" if answered.lengths else answered.tokenizer,
            "answers": len(turns),
            "cut_tokens": table.cut_tokens,
            "traps": dict(table.traps),
        },
        progress=progress,
    )
    found = {"accuracy": _held_out_accuracy(model, turns), "domain": _ranges(turns)}
    return replace(model, facts={**model.facts, **found})


def _held_out_accuracy(model: LengthModel, turns: Sequence[Turn]) -> dict[str, float]:
    """Return the mean absolute error in tokens, and the share of answers inside their interval."""
    sums = ratio_scores(Truth.of(turns), model.held_out(turns))
    mae, coverage = (float(sums[name][0].sum() / sums[name][1].sum()) for name in ("mae", "coverage"))
    return {"mae_tokens": round(mae, 5), "coverage": round(coverage, 5), "interval_level": INTERVAL}


def _ranges(turns: Sequence[Turn]) -> dict[str, list[int]]:
    """Return the least and most of what was learnt from: tokens, and messages before an answer."""
    axes = {
        "prompt_tokens": [turn.prompt_tokens for turn in turns],
        "response_tokens": [turn.response_tokens for turn in turns],
        "messages": [len(turn.messages) for turn in turns],
    }
    return {name: [min(values), max(values)] for name, values in axes.items()}


def summarise_lengths(folder: Path, model: LengthModel) -> dict[str, object]:
    """Describe a bundle of lengths in one row."""
    return {
        "name": folder.name,
        "predictor": model.name,
        "method": model.method_params,
        "answers": len(model.out_of_fold.pieces),
        "conversations": len(model.groups),
        "cut_tokens": model.facts.get("cut_tokens"),
        "provenance": model.provenance,
    }


@dataclass(frozen=True, slots=True)
class Judged:
    """Answers, and what models that have not seen them said.

    Parameters
    ----------
    table : TurnTable
    predicted : mapping of str to LengthDistributions
        By the models' names.
    folds : array of int, shape (n_turns,)
        Of conversations, for what is compared with a constant.
    notes : tuple of str
        What a reader must know, a sentence each.
    """

    table: TurnTable
    predicted: Mapping[str, LengthDistributions]
    folds: NDArray[np.int64]
    notes: tuple[str, ...]


def judge_lengths(
    answered: Answered,
    models: Sequence[tuple[Path, LengthModel]],
) -> Judged:
    """Let models predict answers: those that they have learnt from out of fold, others as new.

    Answers that are neither, to conversations that a model has learnt other answers of, are left out.

    Parameters
    ----------
    answered : Answered
    models : sequence of (Path, LengthModel)
        Bundles with their folders, which tell models of one kind apart.

    Raises
    ------
    DataError
        If a file is wrong, or all answers are neither new nor held out.
    """
    table, notes = _judgeable(read_answered(answered), [model for _, model in models])
    kinds = Counter(model.name for _, model in models)
    names = [model.name if kinds[model.name] == 1 else str(folder) for folder, model in models]
    predicted = {}
    for name, (_, model) in zip(names, models, strict=True):
        predicted[name] = model.held_out(table.turns)
        known = int((model.out_of_fold.rows(table.turns) >= 0).sum())
        n_folds = int(model.out_of_fold.folds.max()) + 1
        learnt = model.facts.get("tokenizer")
        if learnt and learnt != answered.tokenizer:
            notes.append(
                f"{name} has learnt from answers counted by the tokeniser {learnt}, these are counted by "
                f"{answered.tokenizer}: judge with the same."
            )
        notes.append(
            f"{name}: {known:,} of {len(table.turns):,} answers out of {n_folds} folds, "
            f"{len(table.turns) - known:,} of new conversations."
        )
    folds = np.array([fold_of(turn.group, DEFAULT_FOLDS) for turn in table.turns])
    return Judged(table, predicted, folds, tuple(notes))


def _judgeable(table: TurnTable, models: Sequence[LengthModel]) -> tuple[TurnTable, list[str]]:
    """Leave out the answers that are neither new to a model nor held out, with a note of how many."""
    judgeable = np.ones(len(table.turns), dtype=np.bool_)
    for model in models:
        known = np.array([group_key(turn.group) in model.groups for turn in table.turns])
        judgeable &= (model.out_of_fold.rows(table.turns) >= 0) | ~known
    kept = [table.turns[row] for row in np.flatnonzero(judgeable).tolist()]
    left_out = len(table.turns) - len(kept)
    # Of none left, the model itself says what is wrong.
    if not left_out or not kept:
        return table, []
    note = (
        f"{left_out:,} of {len(table.turns):,} answers are left out: their conversations were learnt from, "
        "they themselves were not, so they are neither new nor held out."
    )
    return replace(table, turns=tuple(kept)), [note]


def check_length_folder(folder: Path) -> None:
    """Refuse a folder that writing a bundle would take other files from."""
    check_replaceable(folder, ours=bundle.FILES)


def read_answered(answered: Answered) -> TurnTable:
    """Read the answers that a request names.

    Raises
    ------
    UsageError
        If a method is given without its lengths.
    DataError
        If a file is wrong, there is no answer, or none of the lengths belongs to a conversation.
    """
    spec = get_method(answered.method).spec
    if spec != BASELINE and not answered.lengths:
        raise UsageError(
            f"--method {answered.method} needs --lengths: what `kvpred collect-lengths` collected for "
            "these conversations under it."
        )
    files = [read_conversations(path) for path in answered.data]
    conversations = _all_conversations(files, answered.data)
    if answered.lengths:
        return _collected(conversations, read_lengths(*answered.lengths), spec, answered)
    known = {key: counts for file in files for key, counts in file.token_counts.items()}
    table = turns_of(
        conversations, count=get_counter(answered.tokenizer), known=known, cut_tokens=answered.cut_tokens
    )
    if not table.turns:
        where = ", ".join(map(str, answered.data))
        raise DataError("no answer of an assistant to a user's message", path=where)
    return table


def read_asked(files: Sequence[Path], *, text: str | None = None) -> list[tuple[str, list[dict[str, str]]]]:
    """Return conversations that wait for an answer, with their names, as `kvpred.predict_length` takes them.

    Parameters
    ----------
    files : sequence of Path
    text : str, optional
        One first message instead.

    Raises
    ------
    UsageError
        If the message is empty.
    DataError
        If a file is wrong, or a conversation does not end with the user's message.
    """
    if text is not None:
        if not text.strip():
            raise UsageError("the message is empty: there is nothing to answer.")
        return [("message", [{"role": "user", "content": text}])]
    asked = []
    for path in files:
        conversations = read_conversations(path).conversations
        if not conversations:
            raise DataError("holds no conversation", path=path)
        for conversation in conversations:
            if (last := conversation.messages[-1].role) != "user":
                raise DataError(
                    f"the conversation ends with the {last}'s message, expected the user's; `kvpred validate "
                    "--lengths` judges predictions of answers that are there",
                    path=path,
                    column=conversation.id,
                    value=last,
                )
            messages = [{"role": m.role, "content": m.content} for m in conversation.messages]
            asked.append((conversation.id, messages))
    return asked


def _all_conversations(files: Sequence[ChatFile], paths: Sequence[Path]) -> list[Conversation]:
    found: dict[str, Path] = {}
    for file, path in zip(files, paths, strict=True):
        for conversation in file.conversations:
            if (other := found.setdefault(conversation.id, path)) is not path:
                raise DataError(f"this conversation is in {other} too", path=path, value=conversation.id)
    return [conversation for file in files for conversation in file.conversations]


def _collected(
    conversations: Sequence[Conversation], runs: Sequence[LengthRun], spec: str, answered: Answered
) -> TurnTable:
    """Join collected lengths to the conversations that they answer; each seed's answer is one."""
    where = ", ".join(map(str, answered.lengths))
    own = [run for run in runs if get_method(run.method_params).spec == spec]
    if not own:
        there = ", ".join(sorted({run.method_params for run in runs}))
        raise DataError(f"no answer of {spec}; there are those of {there}", path=where)
    by_id = {conversation.id: conversation for conversation in conversations}
    turns = [turn for run in own if (turn := _turn_of(run, by_id)) is not None]
    if not turns:
        raise DataError("none of the prompts is a message of the conversations given", path=where)
    traps = {"answers to prompts that are not there": len(own) - len(turns)}
    traps["answers that were cut"] = sum(turn.censored for turn in turns)
    cuts = [run.cap for run in own if run.censored]
    return TurnTable(tuple(turns), min(cuts, default=None), {k: v for k, v in traps.items() if v})


def _turn_of(run: LengthRun, conversations: Mapping[str, Conversation]) -> Turn | None:
    piece, _, index = run.prompt_id.rpartition("/")
    conversation = conversations.get(piece)
    if conversation is None or not index.isdecimal() or int(index) >= len(conversation.messages):
        return None
    messages = conversation.messages[: int(index) + 1]
    return Turn(
        piece=f"{piece} T={run.temperature:g} seed={run.seed}",
        group=conversation.group,
        index=int(index),
        messages=messages,
        prompt_tokens=run.prompt_tokens,
        response_tokens=run.output_tokens,
        censored=run.censored,
        first=not conversation.starts_late and all(m.role != "assistant" for m in messages),
    )


def _maker(training: Training) -> tuple[Callable[[str], LengthPredictor], int]:
    """Return what makes a fresh predictor for each part of a training, and the number of folds."""
    if training.model not in MODELS:
        raise UsageError(f"--model {training.model!r} is not known: use {', '.join(MODELS)}.")
    if (training.base is not None) != (training.model == StackedPredictor.name):
        raise UsageError("--base names the model to stack on: it goes with --model stacked, which needs it.")
    if training.model == StackedPredictor.name:
        assert training.base is not None
        base = bundle.load(training.base)
        n_folds = int(base.out_of_fold.folds.max()) + 1
        return lambda part: StackedPredictor(base, seed=training.seed), n_folds
    if training.model == FastPredictor.name:
        return lambda part: FastPredictor(seed=training.seed), training.n_folds
    config, work = training.longformer, training.work
    return (
        lambda part: LongformerPredictor(config, work=None if work is None else work / part),
        training.n_folds,
    )
