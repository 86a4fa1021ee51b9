"""What a point of a sweep is expected to need: memory, and, roughly, time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kvpred.methods import Method
from kvpred.models import ModelSpec
from kvpred.profiling.grid import Grid, Site
from kvpred.profiling.timing import WARM_UP

BYTES_16BIT = 2
SLOWER = 2.0
"""Real steps against the roofline of plain work, before any point says better; only the ETA depends on it."""


def needed_bytes(method: Method, model: ModelSpec, site: Site, *, n_layers: int) -> int:
    """Estimate the memory that a point needs: weights, cache, and the largest passing tensors.

    Parameters
    ----------
    method : Method
    model : ModelSpec
    site : Site
    n_layers : int
        Layers of the stack.
    """
    stack = replace(model, n_layers=n_layers)
    one_layer = replace(model, n_layers=1)
    if site.stage == "prefill":
        cache = method.prefill_cache_bytes(stack, bsz=site.bsz, prompt_len=site.length)
        cache = max(cache, method.cache_bytes(stack, bsz=site.bsz, kv_len=site.length))
        # Residual stream, norm, queries and both halves of the gated MLP, as one layer holds them at a time.
        width = 4 * model.hidden_size + 3 * model.intermediate_size
        passing = site.num_tokens * width * BYTES_16BIT
    else:
        cache = method.cache_bytes(stack, bsz=site.bsz, kv_len=site.length)
        # One layer's random keys and values while the cache is filled, and its decompressed ones.
        passing = 2 * site.bsz * site.length * one_layer.kv_bytes_per_token()
    logits = 4 * site.bsz * model.vocab_size
    return int(stack.weight_bytes() + cache + passing + logits)


def expected_s(
    method: Method, model: ModelSpec, site: Site, *, n_layers: int, grid: Grid, roofline: Mapping[str, float]
) -> float:
    """Estimate roughly how long a point takes, all repeats together.

    Parameters
    ----------
    method : Method
    model : ModelSpec
    site : Site
    n_layers : int
    grid : Grid
    roofline : mapping of str to float
        ``bytes_s`` and ``flops_s`` of the device.
    """
    stack = replace(model, n_layers=n_layers)
    if site.stage == "prefill":
        traffic = method.prefill_traffic(stack, prompt_len=site.length)
        steps = 2 * grid.repeats + 1
    else:
        traffic = method.decode_traffic(stack, kv_len=site.length)
        steps = 2 * grid.repeats * grid.steps + WARM_UP
    tokens_flops = site.num_tokens * stack.linear_flops_per_token()
    flops = tokens_flops + site.bsz * (float(traffic.flops) + stack.lm_head_flops_per_token())
    moved = stack.weight_bytes() + site.bsz * (float(traffic.read_bytes) + float(traffic.write_bytes))
    return SLOWER * steps * (flops / roofline["flops_s"] + moved / roofline["bytes_s"])
