"""Train the Longformer: batches by length, checkpoints that survive a kill, early stopping."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from kvpred.data.journal import Progress
from kvpred.predictors.length.base import Floats, fold_of
from kvpred.predictors.length.longformer import LongformerConfig
from kvpred.predictors.length.longformer_checkpoint import Checkpoint, State
from kvpred.predictors.length.longformer_encoding import batches, padded, precision
from kvpred.predictors.length.longformer_init import SCRATCH
from kvpred.predictors.length.longformer_input import Encoded
from kvpred.predictors.length.longformer_network import LengthNetwork

# Of which conversations draw one.
_LOTS = 2**32
_WARM_UP = 0.1
_CLIP = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What is learnt from, n answers.

    Parameters
    ----------
    encoded : sequence of Encoded
    pooled : Tensor or None
        What a frozen encoder makes of them, shape (n, 2 * hidden_size).
    numbers : array, shape (n, n_numbers)
    below : array, shape (n, n_thresholds)
        1 where the answer is not longer than the threshold, NaN where its cut leaves that open.
    weights : array, shape (n,)
    groups : sequence of str
        Conversations.
    """

    encoded: Sequence[Encoded]
    pooled: Tensor | None
    numbers: Floats
    below: NDArray[np.float32]
    weights: NDArray[np.float32]
    groups: Sequence[str]

    def digest(self) -> str:
        """Return what tells these examples from others."""
        content = hashlib.sha256()
        for one in self.encoded:
            content.update(np.array(one.ids, dtype=np.int64).tobytes())
        content.update(self.below.tobytes())
        return content.hexdigest()


def train(
    network: LengthNetwork,
    examples: Examples,
    config: LongformerConfig,
    *,
    work: Path | None,
    progress: Callable[[Progress], None] | None = None,
) -> list[float]:
    """Train a network in place; it ends with the weights that suited held-out conversations best.

    Parameters
    ----------
    network : LengthNetwork
    examples : Examples
    config : LongformerConfig
    work : Path or None
        Folder of the checkpoints; none are written without.
    progress : callable, optional
        Told before each step.

    Returns
    -------
    list of float
        Loss of the held-out conversations, before the first epoch and after each.
    """
    by_lot = sorted(set(examples.groups), key=lambda group: fold_of(f"stop {group}", _LOTS))
    stopping = set(by_lot[: max(1, round(config.held_out * len(by_lot)))])
    judged = [row for row, group in enumerate(examples.groups) if group in stopping]
    learnt = [row for row, group in enumerate(examples.groups) if group not in stopping]
    network.to(config.device)
    trained = _trained(network, config)
    optimiser = _optimiser(network, config)
    checkpoint = None if work is None else Checkpoint(work, config, examples.digest())
    state, best = State(), network.weights()
    if checkpoint is not None and (found := checkpoint.read(network, optimiser, trained)) is not None:
        state, best = found
    if not state.losses:
        state.losses.append(_loss(network, examples, judged, config))
        state.best_loss = state.losses[0]
    teller = _Teller(progress, len(learnt), config)
    while state.epoch < config.epochs and state.epoch - state.best_epoch <= config.patience:
        network.train()
        passes = batches(examples.encoded, learnt, config, seed=config.seed + state.epoch)
        groups = [passes[i : i + config.accumulate] for i in range(0, len(passes), config.accumulate)]
        while state.place < len(groups):
            teller.tell(state, len(groups))
            torch.manual_seed(config.seed * 1_000_003 + state.step)
            _set_rate(optimiser, state.step, total=len(groups) * config.epochs)
            _step(network, optimiser, examples, groups[state.place], config)
            state.place, state.step = state.place + 1, state.step + 1
            if checkpoint is not None and state.step % config.checkpoint_steps == 0:
                checkpoint.write(state, network, optimiser, trained, best)
        loss = _loss(network, examples, judged, config)
        state.losses.append(loss)
        if loss < state.best_loss:
            state.best_loss, state.best_epoch, best = loss, state.epoch, network.weights()
        state.epoch, state.place = state.epoch + 1, 0
        if checkpoint is not None:
            checkpoint.write(state, network, optimiser, trained, best)
    network.load_state_dict(best)
    network.eval()
    return state.losses


def _trained(network: LengthNetwork, config: LongformerConfig) -> list[str]:
    """Freeze what is not trained; return the names of what is."""
    n_layers = network.encoder.config.num_hidden_layers
    first = 0 if config.init == SCRATCH else max(0, n_layers - config.unfreeze)
    for name, parameter in network.encoder.named_parameters():
        layer = name.split(".")[2] if name.startswith("encoder.layer.") else None
        parameter.requires_grad = (layer is not None and int(layer) >= first) or config.init == SCRATCH
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def _optimiser(network: LengthNetwork, config: LongformerConfig) -> torch.optim.Optimizer:
    encoder = [p for p in network.encoder.parameters() if p.requires_grad]
    head = [p for name, p in network.named_parameters() if not name.startswith("encoder.")]
    parts = [{"params": head, "lr": config.head_rate}]
    if encoder:
        rate = config.head_rate if config.init == SCRATCH else config.encoder_rate
        parts.append({"params": encoder, "lr": rate})
    for part in parts:
        part["full_rate"] = part["lr"]
    return torch.optim.AdamW(parts, weight_decay=config.weight_decay)


def _set_rate(optimiser: torch.optim.Optimizer, step: int, *, total: int) -> None:
    """Warm up, then fall to nothing, in straight lines."""
    done = (step + 1) / max(total, 1)
    share = min(done / _WARM_UP, max(0.0, (1 - done) / (1 - _WARM_UP)), 1.0)
    for part in optimiser.param_groups:
        part["lr"] = part["full_rate"] * share


def _step(
    network: LengthNetwork,
    optimiser: torch.optim.Optimizer,
    examples: Examples,
    batches: Sequence[list[int]],
    config: LongformerConfig,
) -> None:
    optimiser.zero_grad(set_to_none=True)
    total = float(sum(examples.weights[rows].sum() for rows in batches))
    for rows in batches:
        _summed_loss(network, examples, rows, config).div(total).backward()
    torch.nn.utils.clip_grad_norm_([p for p in network.parameters() if p.requires_grad], _CLIP)
    optimiser.step()


def _summed_loss(
    network: LengthNetwork, examples: Examples, rows: list[int], config: LongformerConfig
) -> Tensor:
    logits = _forward(network, examples, rows, config)
    below = torch.from_numpy(examples.below[rows]).to(logits.device)
    weights = torch.from_numpy(examples.weights[rows]).to(logits.device)
    each = binary_cross_entropy_with_logits(logits, below.nan_to_num(), reduction="none")
    return (each.masked_fill(below.isnan(), 0.0).mean(dim=1) * weights).sum()


def _loss(network: LengthNetwork, examples: Examples, rows: list[int], config: LongformerConfig) -> float:
    network.eval()
    with torch.inference_mode():
        total = sum(
            float(_summed_loss(network, examples, batch, config))
            for batch in batches(examples.encoded, rows, config, seed=None)
        )
    return total / float(examples.weights[rows].sum())


def _forward(network: LengthNetwork, examples: Examples, rows: list[int], config: LongformerConfig) -> Tensor:
    beside = torch.from_numpy(examples.numbers[rows]).to(config.device, torch.float32)
    if examples.pooled is not None:
        return network.head(examples.pooled[rows].clone(), beside)
    ids, mask, marked = padded(network, examples.encoded, rows, config)
    with precision(config):
        logits: Tensor = network(ids, mask, marked, beside)
    return logits.float()


class _Teller:
    """Tell how far a training is, and how long it may still take at the pace so far."""

    def __init__(
        self,
        progress: Callable[[Progress], None] | None,
        n_answers: int,
        config: LongformerConfig,
    ) -> None:
        self._progress, self._config, self._n_answers = progress, config, n_answers
        self._began, self._first = time.monotonic(), -1

    def tell(self, state: State, steps_per_epoch: int) -> None:
        """Report before a step."""
        if self._progress is None:
            return
        if self._first < 0:
            self._began, self._first = time.monotonic(), state.step
        done, total = state.step, steps_per_epoch * self._config.epochs
        each_s = (time.monotonic() - self._began) / max(done - self._first, 1)
        left_s = (total - done) * each_s if done > self._first else float("nan")
        text = f"epoch {state.epoch + 1} of at most {self._config.epochs}, {self._n_answers:,} answers"
        if len(state.losses) > 1:
            text += f", held-out loss {state.losses[-1]:.4f}"
        self._progress(Progress(done, total, left_s, text))
