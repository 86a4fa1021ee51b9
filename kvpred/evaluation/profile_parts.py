"""What an operator profile shows: attention against its roofline, and what a step is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kvpred.data.profiles import Columns, Profile, timed_operators
from kvpred.errors import UsageError
from kvpred.evaluation.profile_rows import rows_by_site, site_ms
from kvpred.evaluation.speedups import StepTime
from kvpred.methods import BASELINE, get_method
from kvpred.models import ModelSpec
from kvpred.predictors.profiled import ONCE_PER_STEP
from kvpred.profiling.grid import Site

ATTENTION, UPKEEP, SMALL, REST = "attention", "upkeep", "norms, RoPE, sums, reshapes", "rest of the step"
PARTS: Mapping[str, tuple[str, ...]] = {
    ATTENTION: ("attn_prefill", "attn_decode"),
    UPKEEP: ("attn_kv_cache_save",),
    "projections": ("attn_pre_proj", "attn_post_proj"),
    "MLP": ("mlp_up_proj", "mlp_act", "mlp_down_proj"),
    "embedding, LM head": ("emb", "lm_head"),
    SMALL: (),
}
"""Parts of a step and their operators; the fifth holds whatever no other part names."""

_PART_OF = {operator: part for part, operators in PARTS.items() for operator in operators}


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device reaches at best.

    Parameters
    ----------
    bytes_s, flops_s : float
    source : str
        Where the numbers come from, to follow "of" or "as".
    """

    bytes_s: float
    flops_s: float
    source: str


@dataclass(frozen=True, slots=True)
class AttentionTime:
    """Attention at one site.

    Parameters
    ----------
    method : str
    site : Site
    attention_ms : float
        One layer's attention.
    upkeep_ms : float or None
        One layer's cache upkeep: append, compress, evict.
    roofline_ms : float or None
        The least time that one layer's attention needs on the device.
    """

    method: str
    site: Site
    attention_ms: float
    upkeep_ms: float | None
    roofline_ms: float | None


@dataclass(frozen=True, slots=True)
class Composition:
    """What the step at one site is made of.

    Parameters
    ----------
    method : str
    site : Site
    parts : mapping of str to float
        ms of the whole step by part; the last, `REST`, is what the operators do not explain (negative where
        they add up to more), absent where nobody timed whole steps.
    """

    method: str
    site: Site
    parts: Mapping[str, float]

    @property
    def whole_ms(self) -> float:
        """The step, or the sum of its operators where nobody timed it."""
        return sum(self.parts.values())

    @property
    def attention_share(self) -> float:
        """Share of attention and its upkeep."""
        return (self.parts.get(ATTENTION, 0.0) + self.parts.get(UPKEEP, 0.0)) / self.whole_ms


def attention_times(
    profile: Profile, *, model: ModelSpec | None, rates: Rates | None, tp: int = 1
) -> list[AttentionTime]:
    """Return a method's attention at every site, beside its roofline where model and device are known."""
    method = get_method(profile.method).spec
    found = []
    for site, rows in rows_by_site(profile.attention, tp=tp).items():
        attention_ms = site_ms(profile.attention, f"attn_{site.stage}", rows)
        if attention_ms is not None:
            upkeep_ms = site_ms(profile.attention, "attn_kv_cache_save", rows)
            least = roofline_ms(method, site, model=model, rates=rates, tp=tp) if model and rates else None
            found.append(AttentionTime(method, site, attention_ms, upkeep_ms, least))
    return found


def roofline_ms(method: str, site: Site, *, model: ModelSpec, rates: Rates, tp: int = 1) -> float | None:
    """Return the least ms that one layer's attention needs: for its bytes, or for its FLOPs if that is more.

    A decode step reads what the method's cache stores (`Method.decode_traffic`). A prompt's attention is
    fp16's with every method: what is compressed comes after it.
    """
    try:
        if site.stage == "decode":
            traffic = get_method(method).decode_traffic(model, kv_len=site.length, tp=tp)
        else:
            traffic = get_method(BASELINE).prefill_traffic(model, prompt_len=site.length, tp=tp)
    except UsageError:  # the method does not suit this tensor-parallel degree on paper
        return None
    least_s = max(float(traffic.read_bytes) / rates.bytes_s, float(traffic.flops) / rates.flops_s)
    return 1e3 * site.bsz * least_s / model.n_layers


def compositions(
    profile: Profile, *, shared: Columns, n_layers: int, steps: Sequence[StepTime], tp: int = 1
) -> list[Composition]:
    """Return what a method's steps are made of, at the sites whose shared operators were timed.

    Parameters
    ----------
    profile : Profile
    shared : dict of str to array
        The table of shared operators: the profile's own, or fp16's where it has none.
    n_layers : int
        Of a step.
    steps : sequence of StepTime
        Whole steps; those of other methods do not matter.
    tp : int
    """
    method = get_method(profile.method).spec
    whole = {step.site: step.step_ms for step in steps if step.method == method}
    passes = _rows_by_tokens(shared, tp)
    return [
        Composition(
            method, site, _parts(site, profile.attention, rows, shared, passes, n_layers, whole.get(site))
        )
        for site, rows in rows_by_site(profile.attention, tp=tp).items()
        if site.num_tokens in passes and site_ms(profile.attention, f"attn_{site.stage}", rows) is not None
    ]


def _rows_by_tokens(shared: Columns, tp: int) -> dict[int, list[int]]:
    rows: defaultdict[int, list[int]] = defaultdict(list)
    if shared:
        for row in np.flatnonzero(shared["num_tensor_parallel_workers"] == tp).tolist():
            rows[int(shared["num_tokens"][row])].append(row)
    return dict(rows)


def _parts(
    site: Site,
    attention: Columns,
    rows: list[int],
    shared: Columns,
    passes: Mapping[int, list[int]],
    n_layers: int,
    step_ms: float | None,
) -> dict[str, float]:
    """Sum the operators of a step by part; the LM head sees only each sequence's last token."""
    parts = dict.fromkeys(PARTS, 0.0)
    own = {name: site_ms(attention, name, rows) for name in timed_operators(attention)}
    for name in timed_operators(shared):
        tokens = site.bsz if name == "lm_head" else site.num_tokens
        own[name] = site_ms(shared, name, passes.get(tokens, []))
    for name, ms in own.items():
        calls = 1 if name in ONCE_PER_STEP else n_layers
        parts[_PART_OF.get(name, SMALL)] += calls * (ms or 0.0)
    if step_ms is not None:
        parts[REST] = step_ms - sum(parts.values())
    return parts
