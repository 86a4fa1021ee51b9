"""From the requests that are asked for to what each costs under every method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import kvpred
from kvpred.data.tokenizers import ESTIMATED, get_counter
from kvpred.errors import UsageError
from kvpred.methods import BASELINE
from kvpred.models import ModelSpec, get_model
from kvpred.predictors.cost import RequestCost, check_price, request_cost
from kvpred.predictors.estimate import DEFAULT_MODEL
from kvpred.predictors.length.base import LengthDistributions
from kvpred.predictors.length.outputs import OutputLengths, output_shift
from kvpred.predictors.length.shift import read_shifts
from kvpred.workflows.lengths import read_asked
from kvpred.workflows.workloads import DEFAULT_OUTPUT_LEN, WorkloadRequest, build_workload


@dataclass(frozen=True, slots=True)
class CostRequest:
    """Whose cost is asked for; at most one of text and files, trace, and a given length of answers.

    Parameters
    ----------
    prompt_len : int, optional
        Tokens of every prompt; counted, or the trace's, if not given.
    output_len : int, optional
        Tokens of every answer under fp16; 256 if nothing else tells.
    text : str, optional
        A first message, whose answer's length is predicted.
    files : sequence of Path
        Conversations that wait for an answer.
    trace : Path, optional
        See `kvpred.data.traces.read_trace`.
    too_long : {"refuse", "drop"}
        What becomes of a trace's requests that exceed the model's context.
    shifts : Path, optional
        Measured shifts that go before those of the package.
    """

    prompt_len: int | None = None
    output_len: int | None = None
    text: str | None = None
    files: Sequence[Path] = ()
    trace: Path | None = None
    too_long: str = "refuse"
    shifts: Path | None = None


def cost_requests(
    request: CostRequest,
    methods: Sequence[str],
    *,
    price_per_hour: float,
    model: str | ModelSpec = DEFAULT_MODEL,
    progress: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> list[RequestCost]:
    """Return what a request costs under each method.

    Parameters
    ----------
    request : CostRequest
    methods : sequence of str
    price_per_hour : float
        US dollars per device and hour.
    model : str or ModelSpec
    progress : callable
        Told in a sentence what a reader must know of the requests.
    options
        Of `kvpred.predictors.cost.request_cost`.

    Raises
    ------
    UsageError
        If it is not said how long the prompts are, or said twice how long the answers are.
    DataError
        If a file is wrong.
    MissingExtraError
        If lengths are to be predicted and LightGBM is not installed.
    """
    check_price(price_per_hour)
    served = model if isinstance(model, ModelSpec) else get_model(model)
    known = read_shifts(request.shifts) if request.shifts is not None else ()
    lengths = _lengths(request, served, progress)
    return [
        request_cost(
            method=method,
            lengths=lengths.under(output_shift(method, served.name, shifts=known)),
            price_per_hour=price_per_hour,
            prompt_len=request.prompt_len,
            model=served,
            **options,
        )
        for method in methods
    ]


def _lengths(request: CostRequest, model: ModelSpec, progress: Callable[[str], None]) -> OutputLengths:
    """Return the answers' lengths under fp16, from the one source that is given."""
    asked = request.text is not None or bool(request.files)
    given = [
        option
        for option, there in (
            ("--output-len", request.output_len is not None),
            ("--prompt", request.text is not None),
            ("--file", bool(request.files)),
            ("--trace", request.trace is not None),
        )
        if there
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} all say how long the answers are: give one of them")
    if request.trace is not None:
        return _traced(request, request.trace, model, progress)
    if asked:
        return _predicted(request, progress)
    if request.prompt_len is None:
        raise UsageError("how long are the prompts? Give --prompt-len, or --prompt, --file or --trace")
    return OutputLengths.given(DEFAULT_OUTPUT_LEN if request.output_len is None else request.output_len)


def _traced(
    request: CostRequest, path: Path, model: ModelSpec, progress: Callable[[str], None]
) -> OutputLengths:
    # With prompts of one length, only the trace's answers count.
    context = model.max_position if request.prompt_len is None else None
    workload = build_workload(
        WorkloadRequest(trace=path, too_long=request.too_long), context_tokens=context, timed=False
    )
    for text in workload.notes:
        progress(text)
    trace = workload.trace
    return OutputLengths.of(
        trace.output_tokens,
        f"the {len(trace):,} answers of {trace.name}, taken to be {BASELINE}'s",
        prompt_tokens=trace.prompt_tokens if request.prompt_len is None else None,
    )


def _predicted(request: CostRequest, progress: Callable[[str], None]) -> OutputLengths:
    asked = read_asked(request.files, text=request.text)
    conversations = [messages for _, messages in asked]
    count = get_counter(ESTIMATED)
    prompts = [max(1, sum(count(m["content"]) for m in messages)) for messages in conversations]
    estimates = kvpred.predict_length(conversations)
    found = LengthDistributions(
        np.array([list(estimate.quantiles.values()) for estimate in estimates]),
        np.array([estimate.mean_tokens for estimate in estimates]),
    )
    source = f"predicted for {len(asked):,} conversation{'s' * (len(asked) > 1)}"
    if (limit := estimates[0].limit_tokens) is not None:
        source += f", from answers that were cut at {limit:,.0f} tokens"
    if request.prompt_len is None:
        progress(f"prompts have {np.mean(prompts):,.0f} tokens on average, estimated from their text")
    return OutputLengths.predicted(
        found, source, prompt_tokens=prompts if request.prompt_len is None else None
    )
