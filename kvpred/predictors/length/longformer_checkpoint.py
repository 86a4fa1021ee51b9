"""Checkpoints of a Longformer's training, each written as a whole: a kill or a full disk leaves the last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from kvpred.data.files import is_folder, read_text, replaced_folder, write_bytes, write_text
from kvpred.errors import DataError
from kvpred.predictors.length.longformer import LongformerConfig
from kvpred.predictors.length.longformer_network import LengthNetwork

_LAST, _STATE, _TENSORS, _BEST = "last", "state.json", "tensors.safetensors", "best.safetensors"
_UNLIMITED = float("inf")


@dataclass(slots=True)
class State:
    """Where a training is."""

    epoch: int = 0
    place: int = 0
    step: int = 0
    best_epoch: int = -1
    best_loss: float = _UNLIMITED
    losses: list[float] = field(default_factory=list)


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
        state: State,
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
            write_bytes(draft / _TENSORS, save(tensors))
            write_bytes(draft / _BEST, save({name: best[name] for name in trained}))
            write_text(draft / _STATE, json.dumps({"training": self._key, **asdict(state)}, indent=1) + "\n")

    def read(
        self, network: LengthNetwork, optimiser: torch.optim.Optimizer, trained: Sequence[str]
    ) -> tuple[State, dict[str, Tensor]] | None:
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
            state = State(**stated)
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
