"""TurboQuant: rotate each head's vector at random, then quantise every coordinate with one codebook."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from kvpred.methods.quantisation import WriteQuantised, code_bytes
from kvpred.methods.quantities import BYTES_16BIT, Heads

WIDTHS = range(2, 9)


@dataclass(frozen=True)
class TurboQuant(WriteQuantised):
    """TurboQuant's mean-squared-error quantiser (Zandieh et al., 2025), for keys and for values.

    A token's vector is split into its norm, stored in fp16 per token and head, and its direction, which is
    rotated and quantised coordinate by coordinate. Each layer holds one fp16 rotation (head_dim x head_dim)
    and one fp16 codebook each for keys and values, on every device. No token stays in 16 bit.

    Parameters
    ----------
    bits : str, default "4"
        Bits per coordinate, 2 to 8: one width for both, such as ``4``, or one each, such as ``k8v4`` for
        8-bit keys and 4-bit values.

    Examples
    --------
    >>> TurboQuant(bits="k8v4").spec
    'turboquant:bits=k8v4'
    """

    name: ClassVar[str] = "turboquant"
    title: ClassVar[str] = "TurboQuant"
    paper: ClassVar[str] = "https://arxiv.org/abs/2504.19874"

    bits: str = "4"

    def __post_init__(self) -> None:
        """Refuse widths that are not known, and write equal ones once."""
        super().__post_init__()
        if not re.fullmatch(r"\d|k\dv\d", self.bits) or {self.key_bits, self.value_bits} - set(WIDTHS):
            self._refuse("bits", "a width from 2 to 8, or one each such as k8v4")
        if self.key_bits == self.value_bits:
            object.__setattr__(self, "bits", str(self.key_bits))

    @property
    def key_bits(self) -> int:
        """Bits per coordinate of a key."""
        return int(self.bits[1] if self.bits[0] == "k" else self.bits)

    @property
    def value_bits(self) -> int:
        """Bits per coordinate of a value."""
        return int(self.bits[-1])

    def _entry_bytes(self, heads: Heads) -> dict[str, int]:
        codes = code_bytes(heads.dim, self.key_bits) + code_bytes(heads.dim, self.value_bits)
        return {"codes": heads.kv * codes, "norms": 2 * heads.kv * BYTES_16BIT}

    def _shared_parts(self, heads: Heads) -> dict[str, int]:
        codebooks = 2**self.key_bits + 2**self.value_bits
        return {"rotation": BYTES_16BIT * heads.dim**2, "codebooks": BYTES_16BIT * codebooks}

    def _transform_flops(self, heads: Heads) -> int:
        """Rotate a token's keys and values."""
        return 2 * heads.kv * 2 * heads.dim**2

    def _query_flops(self, heads: Heads) -> int:
        """Rotate the query, and the output back."""
        return 2 * heads.q * 2 * heads.dim**2
