"""Measured runs in a line per method and site, both stages together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from kvpred.data.runs import Run
from kvpred.data.sites import RunSite
from kvpred.evaluation.throughput import Throughput, throughputs
from kvpred.methods import get_method


@dataclass(frozen=True, slots=True)
class ServedSite:
    """What serving a batch took.

    Parameters
    ----------
    method : str
        Full method string.
    bsz, prompt_len, output_len : int
    runs, marked : int
        Runs made, and how many of them deserve less trust.
    prefill_throughput_tok_s, decode_throughput_tok_s : float
        Medians; decode is None for answers of one token.
    ttft_s, tpot_s, e2e_latency_s : float or None
        The batch's prefill, a decode step, and both to the last token, of the medians.
    prefill_noise, decode_noise : float or None
        Relative standard errors of the medians; None where nothing was repeated.
    speedup_prefill, speedup_decode : float or None
        Against fp16 at the same site.
    peak_memory_bytes : int or None
        The largest.
    """

    method: str
    bsz: int
    prompt_len: int
    output_len: int
    runs: int
    marked: int
    prefill_throughput_tok_s: float
    decode_throughput_tok_s: float | None
    ttft_s: float
    tpot_s: float | None
    e2e_latency_s: float
    prefill_noise: float | None
    decode_noise: float | None
    speedup_prefill: float | None
    speedup_decode: float | None
    peak_memory_bytes: int | None


def served_sites(runs: Sequence[Run]) -> list[ServedSite]:
    """Sum up the runs of one engine on one host, by site and method.

    Parameters
    ----------
    runs : sequence of Run
        Of `kvpred measure`: prefill and decode of the same batches.
    """
    found = {(one.method, one.stage, one.site): one for one in throughputs(runs)}
    own: defaultdict[tuple[RunSite, str], list[Run]] = defaultdict(list)
    for run in runs:
        site = RunSite(run.bsz, run.prompt_len, run.output_len or 1)
        own[site, get_method(run.method_params).spec].append(run)
    return [
        _served(
            site,
            own[site, method],
            prefill=found[method, "prefill", RunSite(site.bsz, site.prompt_len, 1)],
            decode=found.get((method, "decode", site)),
        )
        for site, method in sorted(own)
    ]


def _served(
    site: RunSite, own: Sequence[Run], *, prefill: Throughput, decode: Throughput | None
) -> ServedSite:
    ttft_s = site.bsz * site.prompt_len / prefill.tok_s
    tpot_s = site.bsz / decode.tok_s if decode is not None else None
    peaks = [run.peak_memory_bytes for run in own if run.peak_memory_bytes is not None]
    repeats = [run for run in own if run.stage == "prefill"]
    return ServedSite(
        method=prefill.method,
        bsz=site.bsz,
        prompt_len=site.prompt_len,
        output_len=site.output_len,
        runs=len(repeats),
        marked=sum(run.mark is not None for run in repeats),
        prefill_throughput_tok_s=prefill.tok_s,
        decode_throughput_tok_s=decode.tok_s if decode is not None else None,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        e2e_latency_s=ttft_s + (site.output_len - 1) * (tpot_s or 0.0),
        prefill_noise=prefill.error,
        decode_noise=decode.error if decode is not None else None,
        speedup_prefill=prefill.speedup,
        speedup_decode=decode.speedup if decode is not None else None,
        peak_memory_bytes=max(peaks) if peaks else None,
    )
