"""The Longformer predictor: the conversation's text in, a distribution of the answer's length out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from kvpred.data.conversations import Turn
from kvpred.data.files import read_text, write_text
from kvpred.data.journal import Progress
from kvpred.data.tokenizers import estimate_tokens
from kvpred.errors import DataError, UsageError
from kvpred.predictors.length.base import (
    Floats,
    LengthDistributions,
    LengthPredictor,
    Messages,
    check_enough,
    conversation_weights,
    cut_of,
    telling,
)
from kvpred.predictors.length.longformer_init import MAX_TOKENS, MINILM, SCRATCH, make_encoder, require_torch
from kvpred.predictors.length.longformer_input import Encoded, encode

TARGETS = ("log", "ratio")
_STATE, _WEIGHTS, _TOKENIZER, _CONFIG = (
    "longformer.json",
    "model.safetensors",
    "tokenizer.json",
    "config.json",
)
# Answers lie below the thresholds with these shares.
_SHARES = np.array([0.01, 0.02, 0.04, 0.07, *np.arange(0.1, 0.91, 0.05), 0.94, 0.96, 0.98, 0.995])
# Lengths that a ratio's distribution is read at, evenly spread on the logarithm: 11 % apart up to 800 tokens.
_GRID = 64


@dataclass(frozen=True, slots=True)
class LongformerConfig:
    """How a Longformer is made and trained.

    Parameters
    ----------
    init : str
        See `make_encoder`.
    target : str
        ``log``: thresholds on tokens, evenly spread over the answers; ``ratio``: on the ratio of the answer
        to the prompt, as in the paper (appendix G). A cut answer tells of every threshold below its cut; of
        those above, it counts with what is left of it under ``log``, as in `LengthDistributions`, and not at
        all under ``ratio``, where thresholds are cut in different places.
    max_tokens : int
        Of a conversation, at most 4,096.
    message_tokens, messages : int
        Of each message before the last so many tokens are read, and of so many messages; the lengths of all
        stand in the marks, and in the numbers of the history.
    attention_window : int
        Tokens that each token attends to.
    unfreeze : int
        Upper layers that are trained; the lower ones and the embeddings stay as they began. With none, each
        conversation passes the encoder once, and only the head is trained. From scratch, all are trained.
    history : bool
        Whether the head sees the numbers of `kvpred.predictors.length.features` besides the text.
    epochs, patience : int
        At most so many; training ends when held-out conversations have not improved for `patience` of them.
    held_out : float
        Share of the conversations that training is stopped by.
    encoder_rate, head_rate : float
        Learning rates.
    weight_decay, dropout : float
    batch_tokens, batch_answers : int
        Most padded tokens, and answers, of one forward pass.
    accumulate : int
        Forward passes of one step.
    checkpoint_steps : int
        Steps between two checkpoints.
    device : str
        torch's; a GPU computes in bfloat16, a CPU in float32.
    seed : int
    """

    init: str = MINILM
    target: str = "log"
    max_tokens: int = MAX_TOKENS
    message_tokens: int = 24
    messages: int = 7
    attention_window: int = 64
    unfreeze: int = 0
    history: bool = True
    epochs: int = 30
    patience: int = 3
    held_out: float = 0.1
    encoder_rate: float = 5e-5
    head_rate: float = 1e-3
    weight_decay: float = 0.05
    dropout: float = 0.2
    batch_tokens: int = 4096
    batch_answers: int = 16
    accumulate: int = 2
    checkpoint_steps: int = 20
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UsageError(f"--target {self.target!r} is not known: use {', '.join(TARGETS)}.")
        if not 16 <= self.max_tokens <= MAX_TOKENS:
            raise UsageError(f"max_tokens={self.max_tokens} must lie between 16 and {MAX_TOKENS}.")

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as it began."""
        return self.unfreeze == 0 and self.init != SCRATCH

    def smoke(self) -> LongformerConfig:
        """Return a tiny training: two random layers, the first 256 tokens, one epoch."""
        return replace(self, init=SCRATCH, max_tokens=256, epochs=1)


class LongformerPredictor(LengthPredictor):
    """A Longformer encoder, pooled, with a head for P(answer ≤ n) at rising thresholds n.

    Parameters
    ----------
    config : LongformerConfig
    work : Path, optional
        Folder of the training's checkpoints: an interrupted `fit` of the same answers goes on from there.
    """

    name: ClassVar[str] = "longformer"

    def __init__(self, config: LongformerConfig, *, work: Path | None = None) -> None:
        self.config = config
        self.work = work

    def fit(self, turns: Sequence[Turn], *, progress: Callable[[Progress], None] | None = None) -> Self:
        """Train; deterministic for a given seed, interrupted or not.

        Raises
        ------
        DataError
            If there are fewer than 20 conversations, if every answer was cut, or if the work folder holds
            another training's checkpoint.
        UsageError
            If a checkpoint cannot be written; the last good one stays.
        MissingExtraError
            Without torch and transformers.
        """
        require_torch()
        check_enough(turns)
        from kvpred.predictors.length.longformer_encoding import pooled_states
        from kvpred.predictors.length.longformer_network import LengthNetwork
        from kvpred.predictors.length.longformer_training import Examples, train

        config = self.config
        encoder = make_encoder(config.init, attention_window=config.attention_window, seed=config.seed)
        self._tokenizer = encoder.tokenizer
        tokens = np.array([turn.response_tokens for turn in turns], dtype=np.float64)
        cut = np.array([turn.censored for turn in turns])
        if cut.all():
            raise DataError("every answer was cut: collect answers with a higher cap.")
        self.limit_ = cut_of(turns)
        self._most = float(tokens.max())
        values = self._values(tokens, [turn.messages for turn in turns])
        self._most_value = float(values.max())
        self._thresholds = self._chosen_thresholds(values)
        encoded = self._encoded([turn.messages for turn in turns])
        numbers = np.array([one.numbers for one in encoded])
        self._centre, self._scale = _standard(numbers)
        below = (values[:, None] <= self._thresholds).astype(np.float64)
        if config.target == "ratio":
            below[cut[:, None] & (below == 1)] = np.nan
        known = np.isfinite(below)
        weights = conversation_weights(turns)
        self._network = LengthNetwork(
            encoder.model,
            n_numbers=2 * numbers.shape[1] if config.history else 0,
            prior=weights @ np.nan_to_num(below) / (weights @ known),
            dropout=config.dropout,
        )
        examples = Examples(
            encoded,
            pooled_states(self._network, encoded, config, progress=progress) if config.frozen else None,
            self._standardised(numbers),
            below.astype(np.float32),
            weights.astype(np.float32),
            [turn.group for turn in turns],
        )
        train(self._network, examples, config, work=self.work, progress=progress)
        return self

    def predict(self, conversations: Sequence[Messages]) -> LengthDistributions:
        """Return one distribution per conversation."""
        from kvpred.predictors.length.longformer_encoding import scores

        encoded = self._encoded(conversations)
        numbers = self._standardised(np.array([one.numbers for one in encoded]).reshape(len(encoded), -1))
        below = scores(self._network, encoded, numbers, self.config)
        thresholds = self._thresholds
        if self.config.target == "ratio":
            thresholds = self._grid()
            below = self._read_at(thresholds, below, _prompt_tokens(conversations))
        return LengthDistributions.from_shares(below, thresholds, most=self._most, limit=self.limit_)

    def save(self, folder: Path) -> None:
        """Write weights as safetensors, the tokeniser and JSON."""
        from safetensors.torch import save_file

        save_file(self._network.weights(), folder / _WEIGHTS)
        write_text(folder / _CONFIG, self._network.encoder.config.to_json_string())
        write_text(folder / _TOKENIZER, self._tokenizer.to_str())
        state = {
            "config": asdict(self.config),
            "limit": self.limit_ if np.isfinite(self.limit_) else None,
            "most": self._most,
            "most_value": self._most_value,
            "thresholds": self._thresholds.tolist(),
            "centre": self._centre.tolist(),
            "scale": self._scale.tolist(),
        }
        write_text(folder / _STATE, json.dumps(state) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        require_torch()
        from safetensors.torch import load_file
        from transformers import LongformerModel

        from kvpred.predictors.length.longformer_init import read_config, read_tokenizer
        from kvpred.predictors.length.longformer_network import LengthNetwork

        state = json.loads(read_text(folder / _STATE))
        predictor = cls(LongformerConfig(**state["config"]))
        predictor.limit_ = np.inf if state["limit"] is None else float(state["limit"])
        predictor._most, predictor._most_value = float(state["most"]), float(state["most_value"])
        predictor._thresholds = np.array(state["thresholds"])
        predictor._centre, predictor._scale = np.array(state["centre"]), np.array(state["scale"])
        predictor._tokenizer = read_tokenizer(folder / _TOKENIZER)
        model: Any = LongformerModel(read_config(folder / _CONFIG), add_pooling_layer=False)
        predictor._network = LengthNetwork(
            model,
            n_numbers=2 * len(predictor._centre) if predictor.config.history else 0,
            prior=np.linspace(0, 1, len(predictor._thresholds) + 2)[1:-1],
            dropout=predictor.config.dropout,
        )
        predictor._network.load_state_dict(load_file(folder / _WEIGHTS))
        predictor._network.to(predictor.config.device)
        return predictor

    def _encoded(self, conversations: Sequence[Messages]) -> list[Encoded]:
        config = self.config
        return [
            encode(
                messages,
                self._tokenizer,
                max_tokens=config.max_tokens,
                message_tokens=config.message_tokens,
                n_messages=config.messages,
            )
            for messages in conversations
        ]

    def _values(self, tokens: Floats, conversations: Sequence[Messages]) -> Floats:
        """Return what the thresholds are on."""
        return tokens if self.config.target == "log" else tokens / _prompt_tokens(conversations)

    def _chosen_thresholds(self, values: Floats) -> Floats:
        found = np.quantile(values, _SHARES)
        return telling(found, self.limit_) if self.config.target == "log" else np.unique(found)

    def _grid(self) -> Floats:
        spread = np.geomspace(1, self._most, _GRID)[:-1]
        return np.unique(np.append(spread, self.limit_ - 1)) if np.isfinite(self.limit_) else spread

    def _read_at(self, tokens: Floats, below: Floats, prompts: Floats) -> Floats:
        """Return P(answer ≤ tokens) of distributions of the ratio to the prompts' tokens."""
        ends = np.concatenate([[0.0], self._thresholds, [max(self._most_value, self._thresholds[-1] + 1)]])
        shares = np.column_stack([np.zeros(len(below)), below, np.ones(len(below))])
        read = [np.interp(tokens / prompt, ends, row) for prompt, row in zip(prompts, shares, strict=True)]
        return np.array(read).reshape(len(below), len(tokens))

    def _standardised(self, numbers: Floats) -> Floats:
        """Return features about 0 and as wide as 1, 0 where there is none, and which there are."""
        squeezed = np.clip((_squeeze(numbers) - self._centre) / self._scale, -4, 4)
        known = np.isfinite(numbers)
        return np.column_stack([np.where(known, squeezed, 0.0), known.astype(np.float64)])


def _prompt_tokens(conversations: Sequence[Messages]) -> Floats:
    return np.array([max(1.0, estimate_tokens(messages[-1].content)) for messages in conversations])


def _standard(numbers: Floats) -> tuple[Floats, Floats]:
    squeezed = np.where(np.isfinite(numbers), _squeeze(numbers), np.nan)
    known = np.isfinite(squeezed).sum(axis=0) > 1
    centre, scale = np.zeros(numbers.shape[1]), np.ones(numbers.shape[1])
    centre[known] = np.nanmean(squeezed[:, known], axis=0)
    scale[known] = np.maximum(np.nanstd(squeezed[:, known], axis=0), 1e-6)
    return centre, scale


def _squeeze(numbers: Floats) -> Floats:
    """Return the logarithm of counts, so that a paste of ten thousand tokens is no outlier."""
    return np.sign(numbers) * np.log1p(np.abs(numbers))
