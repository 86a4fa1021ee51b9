"""The 8-bit floating-point cache."""

from __future__ import annotations

import torch
from torch import Tensor

from kvpred.caches.attention import decode_attention, grouped
from kvpred.caches.base import CacheLayer
from kvpred.methods.kv_fp8 import KvFp8

LARGEST = torch.finfo(torch.float8_e4m3fn).max


class KvFp8Layer(CacheLayer[KvFp8]):
    """Keys and values in e4m3 under static scales, which the prompt's largest entries set.

    Engines take the scales from a calibration set, or 1; here the first prompt calibrates. Larger entries of
    later tokens are clamped to the largest that e4m3 holds.
    """

    method_type = KvFp8

    def compress(self, query: Tensor | None, key: Tensor, value: Tensor, scaling: float) -> None:
        """Set the scales, and quantise the prompt."""
        every_code = torch.arange(256, dtype=torch.uint8, device=key.device)
        self._numbers = every_code.view(torch.float8_e4m3fn).to(key.dtype)
        for name, entries in (("keys", key), ("values", value)):
            largest = entries.abs().amax(dim=-1, keepdim=True).float()
            mask = self._mask(entries.shape[2])
            if mask is not None:
                largest = largest.masked_fill(~mask.mT, 0)
            scale = largest.amax(dim=(0, 2), keepdim=True) / LARGEST
            self.shared[f"scales/{name}"] = scale.clamp_min(torch.finfo(torch.float32).tiny)
        self.append(key, value)

    def append(self, key: Tensor, value: Tensor) -> None:
        """Quantise entries and add them."""
        for name, entries in (("keys", key), ("values", value)):
            scaled = (entries / self.shared[f"scales/{name}"]).clamp(-LARGEST, LARGEST)
            self._tokens(f"codes/{name}").append(scaled.to(torch.float8_e4m3fn))

    def attend(self, query: Tensor, scaling: float) -> Tensor:
        """Attend to the codes' values; the scales go to the query and the output instead."""
        keys, values = self._values("keys"), self._values("values")
        rows = grouped(query, keys.shape[1]) * self.shared["scales/keys"]
        mask = self._mask(keys.shape[2])
        output = decode_attention(rows.to(self.dtype), keys, values, scaling, mask=mask)
        return (output * self.shared["scales/values"]).to(self.dtype).reshape(query.shape)

    def materialise(self) -> tuple[Tensor, Tensor]:
        """Return all entries in order."""
        keys, values = (
            (self._values(name) * self.shared[f"scales/{name}"]).to(self.dtype) for name in ("keys", "values")
        )
        return keys, values

    def _values(self, name: str) -> Tensor:
        """What the codes stand for before scaling, shape (bsz, KV heads, tokens, head_dim)."""
        codes = self._tokens(f"codes/{name}").view
        if codes.device.type != "cpu":
            return codes.to(self.dtype)
        # On a CPU torch looks bytes up three to five times faster than it converts e4m3.
        numbers = self._numbers.index_select(0, codes.view(torch.uint8).int().flatten())
        return numbers.view(codes.shape)
