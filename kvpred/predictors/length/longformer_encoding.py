"""Pass conversations through the encoder: batches of like length, pooled states, scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from kvpred.data.journal import Progress
from kvpred.predictors.length.base import Floats
from kvpred.predictors.length.longformer import LongformerConfig
from kvpred.predictors.length.longformer_input import Encoded, pad
from kvpred.predictors.length.longformer_network import LengthNetwork


def scores(
    network: LengthNetwork, encoded: Sequence[Encoded], numbers: Floats, config: LongformerConfig
) -> Floats:
    """Return P(answer ≤ threshold), shape (n, n_thresholds)."""
    network.eval()
    with torch.inference_mode():
        pooled = pooled_states(network, encoded, config)
        beside = torch.from_numpy(numbers).to(pooled.device, torch.float32)
        found: Floats = torch.sigmoid(network.head(pooled, beside).double()).cpu().numpy()
    return found


# What a frozen encoder made of conversations, by what it is and their tokens: folds share it.
_POOLED: dict[tuple[object, ...], Tensor] = {}


def pooled_states(
    network: LengthNetwork,
    encoded: Sequence[Encoded],
    config: LongformerConfig,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> Tensor:
    """Return what the encoder makes of conversations, shape (n, 2 * hidden_size)."""
    network.to(config.device).eval()
    source = (
        (network.digest, *network.encoder.config.attention_window, config.device) if config.frozen else ()
    )
    keys = [(*source, one.ids, one.marks) if config.frozen else (row,) for row, one in enumerate(encoded)]
    known = _POOLED if config.frozen else {}
    missing = [row for row, key in enumerate(keys) if key not in known]
    began, done, total = time.monotonic(), 0, sum(len(encoded[row].ids) for row in missing)
    with torch.inference_mode():
        for rows in batches(encoded, missing, config, seed=None):
            if progress is not None:
                left_s = (time.monotonic() - began) / done * (total - done) if done else float("nan")
                progress(Progress(done, total, left_s, f"tokens of {len(missing):,} conversations encoded"))
            ids, mask, marked = padded(network, encoded, rows, config)
            with precision(config):
                states = network.pool(ids, mask, marked).float()
            known.update((keys[row], state.clone()) for row, state in zip(rows, states, strict=True))
            done += sum(len(encoded[row].ids) for row in rows)
    return torch.stack([known[key] for key in keys])


def precision(config: LongformerConfig) -> torch.autocast:
    """Return the context to compute in: bfloat16 on a GPU, float32 on a CPU.

    On a CPU with bfloat16 instructions batches took five times as long as in float32 (oneDNN, torch 2.13),
    and what came of a conversation depended on its batch in the third digit.
    """
    kind = torch.device(config.device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu")


def padded(
    network: LengthNetwork, encoded: Sequence[Encoded], rows: list[int], config: LongformerConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids, attention mask and global attention mask of some rows, padded to the window."""
    multiple = network.encoder.config.attention_window[0]
    ids, mask, marked = pad([encoded[row] for row in rows], multiple=multiple)
    return ids.to(config.device), mask.to(config.device), marked.to(config.device)


def batches(
    encoded: Sequence[Encoded], rows: Sequence[int], config: LongformerConfig, *, seed: int | None
) -> list[list[int]]:
    """Return rows of like length together, in the order of their length, or in one that a seed decides."""
    found: list[list[int]] = []
    # Rows rise in length, so the newest is the widest.
    for row in sorted(rows, key=lambda row: (len(encoded[row].ids), row)):
        size = len(found[-1]) if found else config.batch_answers
        if size >= config.batch_answers or (size + 1) * len(encoded[row].ids) > config.batch_tokens:
            found.append([])
        found[-1].append(row)
    if seed is None:
        return found
    return [found[place] for place in np.random.default_rng(seed).permutation(len(found)).tolist()]
