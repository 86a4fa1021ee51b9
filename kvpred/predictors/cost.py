"""What one request costs: its latency, its tokens and its share of the rented hour, with what is unsure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kvpred.errors import UsageError
from kvpred.hardware import DeviceSpec, get_device, get_engine_spec
from kvpred.methods import BASELINE, Method, get_method
from kvpred.methods.quantities import IntArray
from kvpred.models import ModelSpec, get_model
from kvpred.predictors.bill import MeanRequest, Mix, Serving, mean_request, single_requests
from kvpred.predictors.estimate import DEFAULT_DEVICE, DEFAULT_ENGINE, DEFAULT_MODEL
from kvpred.predictors.length.outputs import OutputLengths, OutputShift
from kvpred.predictors.predictor import Predictor
from kvpred.predictors.relative import relative_times
from kvpred.predictors.scaling import Place
from kvpred.predictors.spread import Draws, Floats, Spread
from kvpred.predictors.steps import Query

DEFAULT_SAMPLES = 10_000
# Multipliers of lengths that sums are made at, between those of the outermost samples.
_MULTIPLIERS = 9


@dataclass(frozen=True, slots=True)
class RequestCost:
    """What one request costs under a method, as one of a batch of requests like it.

    Parameters
    ----------
    method, method_params, model, device, engine : str
    tp, bsz : int
    prompt_len : float
        Tokens of the prompt; the mean where requests differ.
    price_usd_per_device_hour : float
        All that is paid for: energy, if billed apart, is not in it.
    output_source : str
        Where the answers' lengths under fp16 come from.
    output_shift : OutputShift
        What the method makes of them, on which basis.
    output_tokens, ttft_s, tpot_s, e2e_latency_s, usd_per_request : Spread
        Of single requests: their lengths differ, the shift and the step times are unsure.
    usd_per_request_mean_interval : tuple of float
        Of the mean, in which only the shift and the step times are unsure.
    usd_per_million_output_tokens : Spread
        Mean dollars over mean tokens.
    usd_per_request_without_shift : float
        What the mean would be if answers were as long as under fp16.
    usd_ratio_vs_fp16 : Spread
        Mean dollars over fp16's; what both have in common, as doubts about the place, cancels.
    usd_ratio_vs_fp16_without_shift : float
    p_cheaper_than_fp16 : float or None
        Share of the samples whose mean is below fp16's; None for fp16 itself.
    cut_at_context : float
        Share of answers that the model's context ends.
    fits_share : float
        Share of requests of which a batch fits in memory; times are given as if all did.
    interval_level : float
    samples, seed : int
    basis : str
        Of the step times.
    in_domain_share : float
        Share of requests inside the range that was measured.
    provenance : str
    """

    method: str
    method_params: str
    model: str
    device: str
    engine: str
    tp: int
    bsz: int
    prompt_len: float
    price_usd_per_device_hour: float
    output_source: str
    output_shift: OutputShift
    output_tokens: Spread
    ttft_s: Spread
    tpot_s: Spread
    e2e_latency_s: Spread
    usd_per_request: Spread
    usd_per_request_mean_interval: tuple[float, float]
    usd_per_million_output_tokens: Spread
    usd_per_request_without_shift: float
    usd_ratio_vs_fp16: Spread
    usd_ratio_vs_fp16_without_shift: float
    p_cheaper_than_fp16: float | None
    cut_at_context: float
    fits_share: float
    interval_level: float
    samples: int
    seed: int
    basis: str
    in_domain_share: float
    provenance: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them, spreads as objects."""
        return asdict(self)


def request_cost(
    *,
    method: str | Method,
    bsz: int,
    lengths: OutputLengths,
    price_per_hour: float,
    predictor: Predictor,
    prompt_len: int | IntArray | None = None,
    model: str | ModelSpec = DEFAULT_MODEL,
    device: str | DeviceSpec = DEFAULT_DEVICE,
    engine: str = DEFAULT_ENGINE,
    tp: int = 1,
    level: float = 0.9,
    seed: int = 0,
    samples: int = DEFAULT_SAMPLES,
    weight_bits: int = 16,
    memory_utilization: float = 0.9,
) -> RequestCost:
    """Return what a request costs under a method, and what fp16 would cost.

    A request of a batch of ``bsz`` occupies ``1 / bsz`` of its devices for as long as the batch takes:
    ``price * tp / 3600 * (prefill_time_s + (output_len - 1) * tpot_s) / bsz`` dollars. The step times, the
    shift and the single request's length are drawn at random; in one sample all step times err the same way,
    as in the intervals of `kvpred.predict`.

    Parameters
    ----------
    method : str or Method
    bsz : int
    lengths : OutputLengths
        With the method's shift: ``lengths.under(output_shift(method, model))``.
    price_per_hour : float
        US dollars per device and hour.
    predictor : Predictor
    prompt_len : int or array of int, shape (k,), optional
        Of each length; those of `lengths` if not given.
    model, device, engine, tp, weight_bits, memory_utilization
        As in `kvpred.predict`.
    level : float
        Of the intervals, from 0.5 to 0.99.
    seed, samples : int
        Of the random numbers, which are the same for every method.

    Raises
    ------
    UsageError
        If a number is out of range, or a prompt leaves no room for an answer in the model's context.
    NotCoveredError
        If there is no basis for the step times.

    Examples
    --------
    >>> import kvpred
    >>> lengths = OutputLengths.given(256)
    >>> found = request_cost(method="fp16", bsz=8, prompt_len=1024, lengths=lengths, price_per_hour=0.8,
    ...                      predictor=kvpred.load(kvpred.PACKAGED))
    >>> f"{found.usd_per_request.mean:.6f}"
    '0.000336'
    """
    check_price(price_per_hour)
    compression, baseline = get_method(method), get_method(BASELINE)
    place = Place(
        model if isinstance(model, ModelSpec) else get_model(model),
        device if isinstance(device, DeviceSpec) else get_device(device),
        tp,
    )
    runner = get_engine_spec(engine).name
    serving = Serving(predictor, place, runner, bsz, level, weight_bits, memory_utilization)
    mix = Mix.of(lengths, prompt_len, place.model)
    draws = Draws.of(samples, level=level, seed=seed)

    shifts = lengths.shift.at(draws.shift)
    found = mean_request(serving, compression, mix, _multipliers(lengths.shift, shifts))
    base = mean_request(serving, baseline, mix, np.ones(1))
    single = single_requests(serving, compression, mix, draws)
    here, bare = found.row(lengths.shift.multiplier), found.row(1.0)
    point_s, low_s, high_s = (found.at(shifts, ends) for ends in (found.e2e_s, found.low_s, found.high_s))
    mean_s = draws.erring(point_s, low_s, high_s, draws.time)
    ratio = np.ones(samples)
    if compression != baseline:
        ratio = _ratio(serving, compression, mix, found, base, shifts=shifts, draws=draws)
    e2e_s, tokens = float(found.e2e_s[here]), float(found.tokens[here])
    usd_per_s = price_per_hour * tp / 3600 / bsz
    return RequestCost(
        method=compression.name,
        method_params=compression.spec,
        model=place.model.name,
        device=place.device.name,
        engine=runner,
        tp=tp,
        bsz=bsz,
        prompt_len=mix.mean_prompt_len,
        price_usd_per_device_hour=float(price_per_hour),
        output_source=lengths.source,
        output_shift=lengths.shift,
        output_tokens=draws.spread(tokens, single.tokens),
        ttft_s=draws.spread(float(found.prefill_s[here]), single.ttft_s),
        tpot_s=draws.spread(float(found.tpot_s[here]), single.tpot_s),
        e2e_latency_s=draws.spread(e2e_s, single.e2e_s),
        usd_per_request=draws.spread(usd_per_s * e2e_s, usd_per_s * single.e2e_s),
        usd_per_request_mean_interval=draws.interval(usd_per_s * mean_s),
        usd_per_million_output_tokens=draws.spread(
            1e6 * usd_per_s * e2e_s / tokens, 1e6 * usd_per_s * mean_s / found.at(shifts, found.tokens)
        ),
        usd_per_request_without_shift=usd_per_s * float(found.e2e_s[bare]),
        usd_ratio_vs_fp16=draws.spread(e2e_s / float(base.e2e_s[0]), ratio),
        usd_ratio_vs_fp16_without_shift=float(found.e2e_s[bare] / base.e2e_s[0]),
        p_cheaper_than_fp16=None if compression == baseline else float(np.mean(ratio < 1)),
        cut_at_context=float(found.cut[here]),
        fits_share=float(found.fits[here]),
        interval_level=level,
        samples=samples,
        seed=seed,
        basis=found.basis,
        in_domain_share=float(found.in_domain[here]),
        provenance=found.provenance,
    )


def check_price(price_per_hour: float) -> None:
    """Raise `UsageError` if a price is no number of dollars from 0 on."""
    if not 0 <= price_per_hour < float("inf"):
        raise UsageError(f"price_per_hour={price_per_hour} must be a number of US dollars, 0 or more")


def _multipliers(shift: OutputShift, shifts: Floats) -> Floats:
    """Return the multipliers to sum at: the shift's own, none, and some between the outermost samples."""
    doubtful = np.linspace(shifts.min(), shifts.max(), _MULTIPLIERS * (shift.low < shift.high))
    return np.unique([shift.multiplier, 1.0, *doubtful.tolist()])


def _ratio(
    serving: Serving,
    method: Method,
    mix: Mix,
    found: MeanRequest,
    base: MeanRequest,
    *,
    shifts: Floats,
    draws: Draws,
) -> Floats:
    """Return sampled dollars over fp16's: each stage's time with the error of its ratio alone.

    That error is taken at the mix's mean lengths.
    """
    mean_tokens = float(found.tokens[found.row(mix.lengths.shift.multiplier)])
    typical = (serving.bsz, round(mix.mean_prompt_len), round(mean_tokens))
    relative = relative_times(
        serving.predictor,
        method,
        serving.place,
        serving.engine,
        query=Query(*(np.array([max(number, 1)]) for number in typical)),
        level=serving.level,
    )
    errors = {
        stage: draws.erring(1.0, low / value, high / value, draws.ratio)
        for stage, (value, low, high) in relative.items()
    }
    prefill_s = found.at(shifts, found.prefill_s) * errors["prefill"]
    decode_s = found.at(shifts, found.e2e_s - found.prefill_s) * errors["decode"]
    return np.asarray((prefill_s + decode_s) / base.e2e_s[0])
