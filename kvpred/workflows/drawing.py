"""Requests drawn from conversations as vLLM's benchmark does, their answers as they were or as predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kvpred
from kvpred.data.chat_files import read_conversations
from kvpred.data.serving_sample import ServingRequest, sample_requests
from kvpred.data.tokenizers import get_counter
from kvpred.data.traces import Counts, Trace, whole_tokens
from kvpred.errors import DataError
from kvpred.predictors.length import bundle

LENGTHS = ("file", "predicted", "predicted-mean")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Requests, the texts of their prompts by id, and what was left out or assumed, a sentence each."""

    trace: Trace
    prompts: Mapping[str, str]
    notes: tuple[str, ...]


def draw_requests(
    paths: Sequence[Path],
    *,
    lengths: str,
    tokenizer: str,
    n_requests: int,
    seed: int,
    context_tokens: int | None,
) -> Drawn:
    """Draw requests, all of which come at once.

    Parameters
    ----------
    paths : sequence of Path
        Files of conversations.
    lengths : {"file", "predicted", "predicted-mean"}
        Of the answers: their own, drawn from the predicted distribution of each under fp16, or its mean.
    tokenizer, n_requests, seed, context_tokens
        See `kvpred.data.serving_sample.sample_requests`.

    Raises
    ------
    DataError
        If a file is wrong or no request can be drawn.
    MissingExtraError
        If lengths are to be predicted and LightGBM is not installed.
    """
    files = [read_conversations(path) for path in paths]
    names = ", ".join(path.name for path in paths)
    sample = sample_requests(
        [conversation for file in files for conversation in file.conversations],
        count=get_counter(tokenizer),
        n_requests=n_requests,
        seed=seed,
        context_tokens=context_tokens,
    )
    found = sample.requests
    if not found:
        reasons = "; ".join(f"{number:,} {reason}" for reason, number in sample.left_out.items())
        raise DataError(f"no request can be drawn ({reasons or 'no conversation'})", path=names)
    notes = [f"{number:,} conversations: {reason}" for reason, number in sample.left_out.items()]
    outputs = np.array([one.output_tokens for one in found])
    if lengths != LENGTHS[0]:
        outputs = _predicted(found, drawn=lengths == "predicted", seed=seed)
        notes.append(f"answers' lengths under fp16 are predicted: mean {outputs.mean():,.0f} tokens")
    prompts = np.array([one.prompt_tokens for one in found])
    return Drawn(
        Trace.at_once(names, prompts, outputs, [one.id for one in found]),
        {one.id: one.messages[0].content for one in found},
        tuple(notes),
    )


def _predicted(found: Sequence[ServingRequest], *, drawn: bool, seed: int) -> Counts:
    """Return a length for each answer: drawn from its predicted distribution, or the mean."""
    predicted = bundle.load(kvpred.PACKAGED_LENGTHS).distributions([one.messages for one in found])
    if not drawn:
        return whole_tokens(predicted.mean)
    shares = np.random.default_rng(seed).random(len(found))
    return whole_tokens(predicted.at_share(shares[:, None])[:, 0])
