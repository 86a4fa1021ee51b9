"""The network of the Longformer predictor: encoder, pooling, and a head whose scores never fall."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kvpred.predictors.length.base import Floats

_HIDDEN = 128


class LengthNetwork(nn.Module):
    """Scores of P(answer ≤ threshold), rising with the threshold.

    Parameters
    ----------
    encoder : LongformerModel
    n_numbers : int
        Numbers beside the text.
    prior : array, shape (n_thresholds,)
        Shares of all answers below the thresholds, rising: what an untrained head says.
    dropout : float
    """

    def __init__(self, encoder: Any, *, n_numbers: int, prior: Floats, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.n_numbers = n_numbers
        width = 2 * encoder.config.hidden_size + n_numbers
        self.hidden = nn.Sequential(
            nn.LayerNorm(width),
            nn.Dropout(dropout),
            nn.Linear(width, _HIDDEN),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.out = nn.Linear(_HIDDEN, len(prior))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        clipped = np.clip(prior, 1e-3, 1 - 1e-3)
        self.base: Tensor
        self.register_buffer("base", torch.tensor(np.log(clipped / (1 - clipped)), dtype=torch.float32))

    def forward(self, ids: Tensor, mask: Tensor, marked: Tensor, numbers: Tensor) -> Tensor:
        """Return logits, shape (bsz, n_thresholds)."""
        return self.head(self.pool(ids, mask, marked), numbers)

    def pool(self, ids: Tensor, mask: Tensor, marked: Tensor) -> Tensor:
        """Return the first token's state and the mean over all, shape (bsz, 2 * hidden_size)."""
        states = self.encoder(
            input_ids=ids, attention_mask=mask, global_attention_mask=marked
        ).last_hidden_state.float()
        real = mask[..., None].to(states.dtype)
        return torch.cat([states[:, 0], (states * real).sum(dim=1) / real.sum(dim=1)], dim=1)

    def head(self, pooled: Tensor, numbers: Tensor) -> Tensor:
        """Return logits of pooled states, shape (bsz, n_thresholds)."""
        beside = [numbers] if self.n_numbers else []
        raw = self.out(self.hidden(torch.cat([pooled, *beside], dim=1)))
        # The first is a shift of all thresholds; each further one widens or narrows a step of the prior.
        steps = self.base.diff() * torch.exp(raw[:, 1:].clamp(-4, 4))
        first = self.base[:1] + raw[:, :1]
        middle = len(self.base) // 2
        rising = torch.cat([torch.zeros_like(first), steps.cumsum(dim=1)], dim=1)
        # A shift moves the middle, not the lowest threshold.
        drift = rising[:, middle : middle + 1] - (self.base[middle] - self.base[0])
        logits: Tensor = first + rising - drift
        return logits

    @cached_property
    def digest(self) -> str:
        """What tells the encoder's weights from others'; for encoders that stay as they are."""
        content = hashlib.sha256()
        for tensor in self.encoder.state_dict().values():
            content.update(tensor.cpu().contiguous().numpy())
        return content.hexdigest()

    def weights(self) -> dict[str, Tensor]:
        """Return all weights, on the host and apart from each other."""
        return {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.state_dict().items()
        }
