"""The public prediction: one request or an array of them in, one frozen estimate out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvpred.errors import UsageError
from kvpred.hardware import DeviceSpec, get_device, get_engine_spec
from kvpred.methods import BASELINE, Method, get_method
from kvpred.methods.quantities import MAX_BSZ, MAX_TOKENS, whole
from kvpred.models import ModelSpec, get_model
from kvpred.predictors.crossval import check_level
from kvpred.predictors.memory import predict_memory
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.scaling import Place
from kvpred.predictors.steps import Query, StepTimes, coverage, step_times

DEFAULT_MODEL, DEFAULT_DEVICE, DEFAULT_ENGINE = "llama-2-7b", "a6000", "lmdeploy"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What serving one batch would cost; every field that varies is an array if the request was one.

    Parameters
    ----------
    method, method_params : str
        Bare name and full method string.
    model, device, engine : str
    tp : int
        Tensor-parallel degree.
    bsz, prompt_len, output_len : int or array
        The request.
    prefill_time_s, ttft_s : float or array
        Seconds of the whole batch's prefill, which yields the first token.
    prefill_throughput_tok_s : float or array
        Prompt tokens per second of the batch.
    decode_step_time_s, tpot_s : float or array
        Seconds of a decode step, averaged over the steps.
    decode_throughput_tok_s : float or array
        ``bsz / tpot_s``.
    e2e_latency_s : float or array
        ``ttft_s + (output_len - 1) * tpot_s``.
    kv_cache_bytes, peak_memory_bytes : int or array
        Per device; see `kvpred.predictors.memory.MemoryEstimate`.
    fits : bool or array
        Whether the peak fits; times are given as if it did.
    max_bsz : int or array
        Largest batch of such requests that fits.
    speedup_vs_fp16 : mapping of str to float or array
        fp16's time over this method's, for ``prefill``, ``decode`` and ``e2e``.
    interval : mapping of str to tuple
        (low, high) of each time and throughput field, for medians of a few runs. Far outside what was
        measured it stops growing (`kvpred.predictors.predictor.MOST_LOG_ERROR`): nothing is known there.
    interval_level : float
        Share of measured medians that the interval is to contain, where the request is in the domain.
    basis : {"calibrated", "profiled", "transferred", "roofline"}
        What the times rest on, best first.
    in_domain : bool or array
        Whether the method was measured at this place, and the request lies inside the range of the sites.
    provenance : str
        Where the measurements come from.
    """

    method: str
    method_params: str
    model: str
    device: str
    engine: str
    tp: int
    bsz: Any
    prompt_len: Any
    output_len: Any
    prefill_time_s: Any
    prefill_throughput_tok_s: Any
    decode_step_time_s: Any
    decode_throughput_tok_s: Any
    ttft_s: Any
    tpot_s: Any
    e2e_latency_s: Any
    kv_cache_bytes: Any
    peak_memory_bytes: Any
    fits: Any
    max_bsz: Any
    speedup_vs_fp16: Mapping[str, Any]
    interval: Mapping[str, tuple[Any, Any]]
    interval_level: float
    basis: str
    in_domain: Any
    provenance: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them: arrays become lists, intervals pairs in a list."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def predict(
    *,
    method: str | Method,
    bsz: ArrayLike,
    prompt_len: ArrayLike,
    predictor: Predictor,
    model: str | ModelSpec = DEFAULT_MODEL,
    device: str | DeviceSpec = DEFAULT_DEVICE,
    engine: str = DEFAULT_ENGINE,
    output_len: ArrayLike = 256,
    tp: int = 1,
    level: float = 0.9,
    weight_bits: int = 16,
    memory_utilization: float = 0.9,
) -> Estimate:
    """Predict memory, throughput and latency of a batch.

    Parameters
    ----------
    method : str or Method
        Such as ``h2o`` or ``kivi:bits=2``.
    bsz, prompt_len, output_len : int or array_like of int
        Sequences, and each one's tokens; they broadcast, and arrays give array fields.
    predictor : Predictor
        From `kvpred.load`; `kvpred.predict` takes the packaged one if none is given.
    model : str or ModelSpec
        Catalogue name or path of a ``config.json``.
    device : str or DeviceSpec
        Catalogue name or path of a device file.
    engine : str
    tp : int
    level : float
        Of the intervals, from 0.5 to 0.99.
    weight_bits : {16, 8, 4}
        For what fits in memory. Times are of 16-bit weights: no runs of others are known.
    memory_utilization : float
        Share of the device's memory that may be used.

    Returns
    -------
    Estimate

    Raises
    ------
    UsageError
        If a name is unknown or a number out of range.
    NotCoveredError
        If there is no basis for an estimate, with what to measure.

    Examples
    --------
    >>> import kvpred
    >>> estimate = kvpred.predict(method="h2o", bsz=4, prompt_len=2048)
    >>> estimate.basis, estimate.fits
    ('calibrated', True)
    """
    check_level(level)
    compression, runner = get_method(method), get_engine_spec(engine)
    place = Place(
        model if isinstance(model, ModelSpec) else get_model(model),
        device if isinstance(device, DeviceSpec) else get_device(device),
        tp,
    )
    query = _query(bsz, prompt_len, output_len)
    memory = predict_memory(
        place.model,
        compression,
        place.device,
        bsz=query.bsz,
        prompt_len=query.prompt_len,
        output_len=query.output_len,
        tp=tp,
        weight_bits=weight_bits,
        block_tokens=runner.block_tokens,
        prefill_tokens=runner.prefill_tokens,
        reserve_bytes=runner.reserve_bytes,
        memory_utilization=memory_utilization,
    )

    def stage_times(of: Method, stage: str) -> StepTimes:
        return step_times(predictor, stage, of, place, runner.name, query=query, level=level)

    prefill, decode = stage_times(compression, "prefill"), stage_times(compression, "decode")
    steps = query.output_len - 1
    e2e_s = prefill.time_s + steps * decode.time_s
    interval = _intervals(prefill, decode, query)
    baseline = get_method(BASELINE)
    base_prefill_s, base_decode_s = (
        (prefill.time_s, decode.time_s)
        if compression == baseline
        else (stage_times(baseline, "prefill").time_s, stage_times(baseline, "decode").time_s)
    )
    scalar = all(np.ndim(value) == 0 for value in (bsz, prompt_len, output_len))

    def shown(values: Any) -> Any:
        return np.asarray(values).reshape(-1)[0].item() if scalar else np.asarray(values)

    return Estimate(
        method=compression.name,
        method_params=compression.spec,
        model=place.model.name,
        device=place.device.name,
        engine=runner.name,
        tp=tp,
        bsz=shown(query.bsz),
        prompt_len=shown(query.prompt_len),
        output_len=shown(query.output_len),
        prefill_time_s=shown(prefill.time_s),
        prefill_throughput_tok_s=shown(query.bsz * query.prompt_len / prefill.time_s),
        decode_step_time_s=shown(decode.time_s),
        decode_throughput_tok_s=shown(query.bsz / decode.time_s),
        ttft_s=shown(prefill.time_s),
        tpot_s=shown(decode.time_s),
        e2e_latency_s=shown(e2e_s),
        kv_cache_bytes=shown(memory.kv_cache_bytes),
        peak_memory_bytes=shown(memory.peak_memory_bytes),
        fits=shown(memory.fits),
        max_bsz=shown(memory.max_bsz),
        speedup_vs_fp16={
            "prefill": shown(base_prefill_s / prefill.time_s),
            "decode": shown(base_decode_s / decode.time_s),
            "e2e": shown((base_prefill_s + steps * base_decode_s) / e2e_s),
        },
        interval={name: (shown(low), shown(high)) for name, (low, high) in interval.items()},
        interval_level=level,
        basis=coverage(predictor, compression, place, runner.name).basis,
        in_domain=shown(prefill.in_domain & decode.in_domain),
        provenance=predictor.provenance,
    )


def beyond_context(model: ModelSpec, *, prompt_len: int, output_len: int) -> str | None:
    """Say that a request exceeds a model's context; None if it does not.

    Times and memory are given all the same: they do not depend on what a model was trained to read.
    """
    if prompt_len + output_len <= model.max_position:
        return None
    return (
        f"a prompt of {prompt_len:,} tokens and an answer of {output_len:,} exceed the context of "
        f"{model.max_position:,} of {model.name}, which as it is cannot serve them"
    )


def _query(bsz: ArrayLike, prompt_len: ArrayLike, output_len: ArrayLike) -> Query:
    """Check the request's numbers and bring them to one shape."""
    try:
        arrays = np.broadcast_arrays(
            whole("bsz", np.asarray(bsz), low=1, high=MAX_BSZ),
            whole("prompt_len", np.asarray(prompt_len), low=1, high=MAX_TOKENS),
            whole("output_len", np.asarray(output_len), low=1, high=MAX_TOKENS),
        )
    except ValueError as error:
        raise UsageError(f"bsz, prompt_len and output_len do not fit together: {error}") from None
    return Query(*(np.atleast_1d(array) for array in arrays))


def _intervals(prefill: StepTimes, decode: StepTimes, query: Query) -> dict[str, tuple[Any, Any]]:
    """Return (low, high) by field; end to end, both stages are cautiously taken to err the same way."""
    tokens, steps = query.bsz * query.prompt_len, query.output_len - 1
    times: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {
        "prefill_time_s": (prefill.low_s, prefill.high_s),
        "decode_step_time_s": (decode.low_s, decode.high_s),
        "ttft_s": (prefill.low_s, prefill.high_s),
        "tpot_s": (decode.low_s, decode.high_s),
        "e2e_latency_s": (prefill.low_s + steps * decode.low_s, prefill.high_s + steps * decode.high_s),
    }
    return times | {
        "prefill_throughput_tok_s": (tokens / prefill.high_s, tokens / prefill.low_s),
        "decode_throughput_tok_s": (query.bsz / decode.high_s, query.bsz / decode.low_s),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
