"""Train the Longformer: batches by length, checkpoints that survive a kill, early stopping."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from kvpred.data.files import is_folder, read_text, replaced_folder, write_text
from kvpred.data.journal import Progress
from kvpred.errors import DataError
from kvpred.predictors.length.base import Floats, fold_of
from kvpred.predictors.length.longformer import LongformerConfig
from kvpred.predictors.length.longformer_init import SCRATCH
from kvpred.predictors.length.longformer_input import Encoded, pad
from kvpred.predictors.length.longformer_network import LengthNetwork

_LAST, _STATE, _TENSORS, _BEST = "last", "state.json", "tensors.safetensors", "best.safetensors"
# Of which conversations draw one.
_LOTS = 2**32
_WARM_UP = 0.1
_CLIP = 1.0
_UNLIMITED = float("inf")


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


@dataclass(slots=True)
class _State:
    """Where a training is."""

    epoch: int = 0
    place: int = 0
    step: int = 0
    best_epoch: int = -1
    best_loss: float = _UNLIMITED
    losses: list[float] = field(default_factory=list)


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
    state, best = _State(), network.weights()
    if checkpoint is not None and (found := checkpoint.read(network, optimiser, trained)) is not None:
        state, best = found
    if not state.losses:
        state.losses.append(_loss(network, examples, judged, config))
        state.best_loss = state.losses[0]
    teller = _Teller(progress, len(learnt), config)
    while state.epoch < config.epochs and state.epoch - 1 - state.best_epoch < config.patience + 1:
        network.train()
        batches = list(_batches(examples.encoded, learnt, config, seed=config.seed + state.epoch))
        groups = [batches[i : i + config.accumulate] for i in range(0, len(batches), config.accumulate)]
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


def pooled_states(network: LengthNetwork, encoded: Sequence[Encoded], config: LongformerConfig) -> Tensor:
    """Return what the encoder makes of conversations, shape (n, 2 * hidden_size)."""
    network.to(config.device).eval()
    source = (config.init, config.attention_window, config.device, str(network.encoder.config.hidden_size))
    keys = [(*source, one.ids, one.marks) if config.frozen else (row,) for row, one in enumerate(encoded)]
    known = _POOLED if config.frozen else {}
    missing = [row for row, key in enumerate(keys) if key not in known]
    with torch.inference_mode():
        for rows in _batches(encoded, missing, config, seed=None):
            ids, mask, marked = _padded(network, encoded, rows, config)
            with torch.autocast(ids.device.type, torch.bfloat16):
                states = network.pool(ids, mask, marked).float()
            known.update((keys[row], state.clone()) for row, state in zip(rows, states, strict=True))
    return torch.stack([known[key] for key in keys])


class Checkpoint:
    """The latest state of a training, written as a whole, and its best weights so far.

    Parameters
    ----------
    work : Path
    config : LongformerConfig
    digest : str
        Of the examples.
    """

    def __init__(self, work: Path, config: LongformerConfig, digest: str) -> None:
        self._folder = work / _LAST
        # The same numbers come of any device's name and any number of steps between checkpoints.
        self._key = {**asdict(config), "examples": digest}
        del self._key["checkpoint_steps"]

    def write(
        self,
        state: _State,
        network: LengthNetwork,
        optimiser: torch.optim.Optimizer,
        trained: Sequence[str],
        best: dict[str, Tensor],
    ) -> None:
        """Replace the checkpoint, in one step.

        Raises
        ------
        UsageError
            If there is no room for it; the one before stays.
        """
        weights = network.weights()
        tensors = {f"weight.{name}": weights[name] for name in trained}
        for place, moments in optimiser.state_dict()["state"].items():
            tensors |= {
                f"optimiser.{place}.{key}": value.cpu().contiguous() for key, value in moments.items()
            }
        from safetensors.torch import save

        with replaced_folder(self._folder) as draft:
            # Through bytes: safetensors' own writer raises no OSError where a disk is full.
            _write(draft / _TENSORS, save(tensors))
            _write(draft / _BEST, save({name: best[name] for name in trained}))
            write_text(draft / _STATE, json.dumps({"training": self._key, **asdict(state)}, indent=1) + "\n")

    def read(
        self, network: LengthNetwork, optimiser: torch.optim.Optimizer, trained: Sequence[str]
    ) -> tuple[_State, dict[str, Tensor]] | None:
        """Restore a training; returns its state and best weights, or None if there is no checkpoint.

        Raises
        ------
        DataError
            If it is another training's, or damaged.
        """
        if not is_folder(self._folder):
            return None
        path = self._folder / _STATE
        try:
            stated = json.loads(read_text(path))
            key = stated.pop("training")
            state = _State(**stated)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not a checkpoint's state: {error!r}", path=path) from None
        differing = [name for name, value in self._key.items() if key.get(name) != value]
        if differing:
            what = ", ".join(f"{name} was {key.get(name)}, now {self._key[name]}" for name in differing)
            raise DataError(f"the checkpoint is of another training ({what}): name another --work", path=path)
        from safetensors.torch import load_file

        try:
            tensors = load_file(self._folder / _TENSORS)
            best = network.weights() | load_file(self._folder / _BEST)
            network.load_state_dict({name: tensors[f"weight.{name}"] for name in trained}, strict=False)
        except Exception as error:  # safetensors raises an error of its own
            raise DataError(f"damaged: {error}", path=self._folder / _TENSORS) from None
        saved = optimiser.state_dict()
        saved["state"] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, place, part = name.split(".")
                saved["state"].setdefault(int(place), {})[part] = tensor
        optimiser.load_state_dict(saved)
        return state, best


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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
            for batch in _batches(examples.encoded, rows, config, seed=None)
        )
    return total / float(examples.weights[rows].sum())


def _forward(network: LengthNetwork, examples: Examples, rows: list[int], config: LongformerConfig) -> Tensor:
    beside = torch.from_numpy(examples.numbers[rows]).to(config.device, torch.float32)
    if examples.pooled is not None:
        return network.head(examples.pooled[rows].clone(), beside)
    ids, mask, marked = _padded(network, examples.encoded, rows, config)
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits: Tensor = network(ids, mask, marked, beside)
    return logits.float()


def _padded(
    network: LengthNetwork, encoded: Sequence[Encoded], rows: list[int], config: LongformerConfig
) -> tuple[Tensor, Tensor, Tensor]:
    multiple = network.encoder.config.attention_window[0]
    ids, mask, marked = pad([encoded[row] for row in rows], multiple=multiple)
    return ids.to(config.device), mask.to(config.device), marked.to(config.device)


def _batches(
    encoded: Sequence[Encoded], rows: Sequence[int], config: LongformerConfig, *, seed: int | None
) -> Iterator[list[int]]:
    """Yield rows of like length together, in the order of their length, or in one that a seed decides."""
    ordered = sorted(rows, key=lambda row: (len(encoded[row].ids), row))
    found: list[list[int]] = [[]]
    for row in ordered:
        batch = found[-1]
        # Rows rise in length, so the newest is the widest.
        if batch and (
            (len(batch) + 1) * len(encoded[row].ids) > config.batch_tokens
            or len(batch) >= config.batch_answers
        ):
            found.append([])
        found[-1].append(row)
    if seed is None:
        yield from (batch for batch in found if batch)
        return
    rng = np.random.default_rng(seed)
    for place in rng.permutation(len(found)).tolist():
        if found[place]:
            yield found[place]


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

    def tell(self, state: _State, steps_per_epoch: int) -> None:
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
