"""From a trace, conversations or plain lengths to the requests that a service is asked to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvpred.data.arrivals import KINDS, arrivals
from kvpred.data.serving_sample import N_REQUESTS
from kvpred.data.tokenizers import ESTIMATED
from kvpred.data.traces import Trace, check_qps, read_trace
from kvpred.errors import DataError, UsageError
from kvpred.workflows.drawing import LENGTHS, draw_requests

TOO_LONG = ("refuse", "drop")
DEFAULT_PROMPT_LEN, DEFAULT_OUTPUT_LEN = 1024, 256


@dataclass(frozen=True, slots=True)
class WorkloadRequest:
    """Which requests are asked for.

    Parameters
    ----------
    trace : Path, optional
        Arrivals and lengths; see `kvpred.data.traces.read_trace`.
    conversations : sequence of Path
        ShareGPT's, of which vLLM's sample is drawn; instead of a trace.
    lengths : {"file", "predicted", "predicted-mean"}
        Of the answers to `conversations`: their own, drawn from the predicted distribution of each under
        fp16, or its mean.
    tokenizer : str
        Counts the tokens of `conversations`.
    arrivals : {"poisson", "gamma", "uniform"}, optional
        Drawn in place of a trace's own; Poisson where there is none.
    qps : float, optional
        Requests per second; a trace's own if not given.
    cv : float
        Of gamma's gaps.
    n_requests : int, optional
        All of a trace and 1,000 else, if not given.
    prompt_len, output_len : int, optional
        Of every request; `output_len` replaces other lengths of answers too.
    seed : int
        Of everything drawn.
    too_long : {"refuse", "drop"}
        What becomes of requests that exceed the model's context.
    """

    trace: Path | None = None
    conversations: Sequence[Path] = ()
    lengths: str = "file"
    tokenizer: str = ESTIMATED
    arrivals: str | None = None
    qps: float | None = None
    cv: float = 1.0
    n_requests: int | None = None
    prompt_len: int | None = None
    output_len: int | None = None
    seed: int = 0
    too_long: str = "refuse"


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests, what a reader must know of them in a sentence each, and texts of prompts by request."""

    trace: Trace
    notes: tuple[str, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)


def build_workload(
    request: WorkloadRequest, *, context_tokens: int | None = None, timed: bool = True
) -> Workload:
    """Read or draw requests.

    Parameters
    ----------
    request : WorkloadRequest
    context_tokens : int, optional
        The model's context: prompt and answer must fit.
    timed : bool
        Whether arrivals matter; if not, and none are given, all requests come at once.

    Raises
    ------
    UsageError
        If options do not go together, are unknown or out of range; or requests are drawn that need a rate.
    DataError
        If a file is wrong or holds no request, or one exceeds the context.
    MissingExtraError
        If lengths are to be predicted and LightGBM is not installed.
    """
    _check(request)
    notes: list[str] = []
    prompts: Mapping[str, str] = {}
    if request.trace is not None:
        trace = read_trace(request.trace)
        trace = trace if request.n_requests is None else trace.first(request.n_requests)
    elif request.conversations:
        drawn = draw_requests(
            request.conversations,
            lengths=request.lengths,
            tokenizer=request.tokenizer,
            n_requests=request.n_requests or N_REQUESTS,
            seed=request.seed,
            context_tokens=context_tokens,
        )
        trace, prompts, notes = drawn.trace, drawn.prompts, [*drawn.notes]
    else:
        trace = _alike(request)
    if request.output_len is not None:
        trace = trace.with_outputs(request.output_len)
    if context_tokens is not None:
        trace = _within(trace, request, context_tokens, notes)
    trace = _timed(trace, request, required=timed)
    if timed and request.arrivals is None and trace.simultaneous:
        notes.append(f"{trace.simultaneous:,} of {len(trace):,} requests come at the moment of another")
    return Workload(trace, (_summary(trace, timed=timed), *notes), prompts)


def _check(request: WorkloadRequest) -> None:
    if request.trace is not None and request.conversations:
        raise UsageError("--trace and --conversations both say what is asked: give one of them")
    if request.prompt_len is not None and (request.trace is not None or request.conversations):
        raise UsageError(
            "--prompt-len is for requests that are all alike: leave out --trace or --conversations"
        )
    if request.lengths != LENGTHS[0] and not request.conversations:
        raise UsageError(f"--lengths {request.lengths} needs the --conversations that are answered")
    for option, value, known in (
        ("--lengths", request.lengths, LENGTHS),
        ("--arrivals", request.arrivals or KINDS[0], KINDS),
        ("--too-long", request.too_long, TOO_LONG),
    ):
        if value not in known:
            raise UsageError(f"{option} {value!r} is not known: use {', '.join(known)}")
    for option, number in (
        ("--requests", request.n_requests),
        ("--prompt-len", request.prompt_len),
        ("--output-len", request.output_len),
    ):
        if number is not None and number < 1:
            raise UsageError(f"{option} {number}: give a whole number of at least 1")


def _alike(request: WorkloadRequest) -> Trace:
    n = request.n_requests or N_REQUESTS
    prompt = request.prompt_len or DEFAULT_PROMPT_LEN
    output = request.output_len or DEFAULT_OUTPUT_LEN
    return Trace.at_once(f"{prompt:,} + {output:,} tokens", np.full(n, prompt), np.full(n, output))


def _timed(trace: Trace, request: WorkloadRequest, *, required: bool) -> Trace:
    if request.qps is not None:
        check_qps(request.qps)
    own = request.trace is not None
    kind = request.arrivals or (None if own else KINDS[0])
    if kind is None:
        return trace if request.qps is None else trace.at_qps(request.qps)
    qps = request.qps if request.qps is not None or not own else trace.qps
    if qps is None and not required:
        return trace
    if qps is None or not np.isfinite(qps):
        raise UsageError("--qps is missing: requests per second, for arrivals to be drawn")
    return trace.arriving(arrivals(kind, len(trace), qps=qps, cv=request.cv, seed=request.seed))


def _within(trace: Trace, request: WorkloadRequest, context: int, notes: list[str]) -> Trace:
    """Return the requests that the model's context holds, or refuse those that it does not."""
    tokens = trace.prompt_tokens + trace.output_tokens
    over = tokens > context
    if not over.any():
        return trace
    first = int(np.flatnonzero(over)[0])
    prompt, output = int(trace.prompt_tokens[first]), int(trace.output_tokens[first])
    fault = f"{prompt:,} tokens of prompt and {output:,} of answer exceed the model's context of {context:,}"
    if request.trace is None and not request.conversations:
        raise UsageError(f"{fault}: ask for fewer, or another model")
    if request.too_long == "refuse" or over.all():
        source = ", ".join(map(str, request.conversations)) or str(request.trace)
        advice = "take a model with a longer context" if over.all() else "--too-long drop leaves such out"
        raise DataError(
            f"request {trace.ids[first]}: {fault} ({over.sum():,} of {len(trace):,} requests do); {advice}",
            path=source,
        )
    notes.append(
        f"{over.sum():,} of {len(trace):,} requests left out: longer than the context of {context:,}"
    )
    return trace.where(~over)


def _summary(trace: Trace, *, timed: bool) -> str:
    def spread(tokens: NDArray[np.int64]) -> str:
        return f"{tokens.mean():,.0f} (P99 {np.percentile(tokens, 99):,.0f})"

    rate = f" at {trace.qps:.3g} per second" if timed and np.isfinite(trace.qps) else ""
    sizes = np.unique(np.stack([trace.prompt_tokens, trace.output_tokens]), axis=1)
    if sizes.shape[1] == 1:
        prompt, output = sizes[:, 0].tolist()
        return f"{len(trace):,} requests{rate}, each of {prompt:,} tokens of prompt and {output:,} of answer"
    return (
        f"{len(trace):,} requests of {trace.name}{rate}: {spread(trace.prompt_tokens)} tokens of prompt, "
        f"{spread(trace.output_tokens)} of answer on average"
    )
