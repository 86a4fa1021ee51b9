"""Sampled answers to different prompts in one batch, through a method's real cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvpred.methods import Method

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be answered.

    Parameters
    ----------
    id : str
        Names the prompt; with the seed it decides the random numbers.
    tokens : tuple of int
        As the model takes them, chat template included.
    """

    id: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The length of one answer.

    Parameters
    ----------
    output_tokens : int
        Tokens generated, that of the end included.
    ended : bool
        Whether the model ended it; the cap did otherwise.
    tokens : tuple of int
        What was generated.
    """

    output_tokens: int
    ended: bool
    tokens: tuple[int, ...]


def sample_answers(
    model: PreTrainedModel,
    method: Method,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    *,
    temperature: float,
    cap: int,
    ends: frozenset[int],
) -> list[Answer]:
    """Answer each prompt with its seed, all in one batch; an answer leaves the batch where it ends.

    The random number behind a token depends on the prompt's id, the seed and the token's place alone: the
    same prompt and seed meet the same numbers under every method and in every batch. A token is the one at
    which the cumulated probability passes its number (inverse transform sampling).

    Parameters
    ----------
    model : PreTrainedModel
        In kvpred's attention.
    method : Method
    prompts, seeds : sequence
        Of equal length, bsz.
    temperature : float
        Above 0.
    cap : int
        Tokens after which an answer is stopped.
    ends : frozenset of int
        Tokens that end an answer.

    Returns
    -------
    list of Answer
        In the order of the prompts.
    """
    import torch

    from kvpred.caches import MethodCache

    numbers = np.array([_numbers(p.id, seed, cap) for p, seed in zip(prompts, seeds, strict=True)])
    longest = max(len(prompt.tokens) for prompt in prompts)
    tokens = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
        mask[row, longest - len(prompt.tokens) :] = True
    tokens, mask = tokens.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = MethodCache(method, model.config)
    rows: NDArray[np.int64] = np.arange(len(prompts))
    told: list[list[int]] = [[] for _ in prompts]
    attention: Tensor | None = mask
    with torch.inference_mode():
        for place in range(cap):
            logits = model(
                input_ids=tokens,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen = _chosen(logits, numbers[rows, place], temperature)
            for row, token in zip(rows.tolist(), chosen.tolist(), strict=True):
                told[row].append(token)
            going = np.array([token not in ends for token in chosen.tolist()])
            if not going.any():
                break
            if not going.all():
                kept = torch.from_numpy(np.flatnonzero(going)).to(model.device)
                cache.reorder_cache(kept)  # type: ignore[arg-type]
                chosen, positions, rows = chosen[kept], positions[kept], rows[going]
            tokens, positions, attention = chosen[:, None], positions[:, -1:] + 1, None
    return [Answer(len(answer), answer[-1] in ends, tuple(answer)) for answer in told]


def _chosen(logits: Tensor, numbers: NDArray[np.float64], temperature: float) -> Tensor:
    """Return the token of each row at which the cumulated probability passes the row's number."""
    import torch

    shares = torch.softmax(logits.double() / temperature, dim=-1).cumsum(dim=-1)
    passed = torch.from_numpy(numbers).to(logits.device)[:, None] * shares[:, -1:]
    return torch.searchsorted(shares, passed, right=True).clamp(max=logits.shape[-1] - 1)[:, 0]


def _numbers(prompt_id: str, seed: int, count: int) -> NDArray[np.float64]:
    key = int.from_bytes(hashlib.sha256(f"{prompt_id} {seed}".encode()).digest()[:16])
    return np.random.Generator(np.random.Philox(key=key)).random(count)
