"""The requests that vLLM's serving benchmark draws from ShareGPT conversations."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kvpred.data.conversations import Conversation, Message

# vLLM's `ShareGPTDataset` and `is_valid_sequence` (vllm/benchmarks/datasets.py of 2025).
MIN_TOKENS, MAX_PROMPT_TOKENS, MAX_TOTAL_TOKENS = 4, 1024, 2048
N_REQUESTS, MAX_OUTPUT_TOKENS = 1000, 1024


@dataclass(frozen=True, slots=True)
class ServingRequest:
    """One request.

    Parameters
    ----------
    id : str
        ``<piece>/<index of the user's message>``.
    messages : tuple of Message
        The user's first message alone.
    prompt_tokens, output_tokens : int
        Tokens of the message, and of the answer up to the generation cap.
    """

    id: str
    messages: tuple[Message, ...]
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class ServingSample:
    """Requests, and what was not taken or changed, by reason."""

    requests: tuple[ServingRequest, ...]
    left_out: Mapping[str, int]


def sample_requests(
    conversations: Sequence[Conversation],
    *,
    count: Callable[[str], int],
    n_requests: int = N_REQUESTS,
    seed: int = 0,
    max_output_tokens: int = MAX_OUTPUT_TOKENS,
    context_tokens: int | None = None,
) -> ServingSample:
    """Draw requests by vLLM's rule: the first two messages of each conversation, within its limits of length.

    Conversations of two messages or more are shuffled by `seed`, and taken in that order if prompt and answer
    have at least 4 tokens, the prompt at most 1,024 and both together at most 2,048. vLLM takes the first two
    messages whoever speaks; here the first must be the user's and the second the answer, and the rest is
    counted after the shuffle, so that the order is vLLM's. vLLM counts the beginning-of-text token that some
    tokenisers add, and draws requests twice where there are too few; neither is done here.

    Parameters
    ----------
    conversations : sequence of Conversation
    count : callable
        Tokens of a text.
    n_requests : int
    seed : int
    max_output_tokens : int
        Answers count as no longer than this (the paper's cap, appendix B.1).
    context_tokens : int, optional
        A prompt with its answer that exceeds the model's context loses the prompt's beginning.
    """
    left_out: Counter[str] = Counter()
    several = [conversation for conversation in conversations if len(conversation.messages) >= 2]
    left_out["fewer than two messages"] = len(conversations) - len(several)
    random.Random(seed).shuffle(several)
    found: list[ServingRequest] = []
    for conversation in several:
        if len(found) == n_requests:
            break
        asked, answer = conversation.messages[:2]
        if (asked.role, answer.role) != ("user", "assistant"):
            left_out["does not begin with the user and an answer"] += 1
            continue
        prompt, output = count(asked.content), count(answer.content)
        if reason := _fault(prompt, output):
            left_out[reason] += 1
            continue
        if output > max_output_tokens:
            left_out["answers cut to the generation cap"] += 1
            output = max_output_tokens
        if context_tokens is not None and prompt + output > context_tokens:
            left_out["prompts cut to the context"] += 1
            asked = Message("user", _latest(asked.content, count, max(1, context_tokens - output)))
            prompt = count(asked.content)
        found.append(ServingRequest(f"{conversation.id}/0", (asked,), prompt, output))
    return ServingSample(tuple(found), {reason: number for reason, number in left_out.items() if number})


def _fault(prompt_tokens: int, output_tokens: int) -> str | None:
    """Return why vLLM would not take a request."""
    if prompt_tokens < MIN_TOKENS:
        return "prompts under 4 tokens"
    if output_tokens < MIN_TOKENS:
        return "answers under 4 tokens"
    if prompt_tokens > MAX_PROMPT_TOKENS:
        return "prompts over 1,024 tokens"
    return "over 2,048 tokens together" if prompt_tokens + output_tokens > MAX_TOTAL_TOKENS else None


def _latest(text: str, count: Callable[[str], int], most_tokens: int) -> str:
    """Return the end of a text that is as long as `most_tokens` allow, to the character."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        if count(text[middle:]) <= most_tokens:
            high = middle
        else:
            low = middle + 1
    return text[low:]
