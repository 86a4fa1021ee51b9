"""Predict what serving an LLM with KV-cache compression really costs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvpred._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

    from kvpred.hardware import DeviceSpec
    from kvpred.methods import Method
    from kvpred.models import ModelSpec
    from kvpred.predictors.estimate import Estimate
    from kvpred.predictors.length.model import LengthEstimate, LengthModel
    from kvpred.predictors.predictor import Predictor

__all__ = ["__version__", "load", "predict", "predict_length"]

_PACKAGED = Path(__file__).parent / "data" / "packaged"
PACKAGED = _PACKAGED / "llama-2-7b_a6000_lmdeploy"
PACKAGED_LENGTHS = _PACKAGED / "lengths_sharegpt"
PACKAGED_SHIFTS = _PACKAGED / "length_shift.json"


def predict(
    *,
    method: str | Method,
    bsz: ArrayLike,
    prompt_len: ArrayLike,
    model: str | ModelSpec = "llama-2-7b",
    device: str | DeviceSpec = "a6000",
    engine: str = "lmdeploy",
    output_len: ArrayLike = 256,
    tp: int = 1,
    predictor: Predictor | None = None,
    level: float = 0.9,
    weight_bits: int = 16,
    memory_utilization: float = 0.9,
) -> Estimate:
    """Predict memory, throughput and latency of a batch with the packaged predictor, or the one given.

    Parameters, fields and errors are those of `kvpred.predictors.estimate.predict`.

    Examples
    --------
    >>> predict(method="h2o", bsz=[1, 8], prompt_len=2048).in_domain.tolist()
    [True, True]
    """
    from kvpred.predictors import estimate

    return estimate.predict(
        method=method,
        bsz=bsz,
        prompt_len=prompt_len,
        predictor=predictor if predictor is not None else _packaged(),
        model=model,
        device=device,
        engine=engine,
        output_len=output_len,
        tp=tp,
        level=level,
        weight_bits=weight_bits,
        memory_utilization=memory_utilization,
    )


def predict_length(
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    *,
    method: str = "fp16",
    predictor: LengthModel | None = None,
    shifts: str | Path | None = None,
    **request: Any,
) -> Sequence[LengthEstimate]:
    """Predict how long the answers to conversations will be, in tokens.

    Needs the extra ``train`` (LightGBM, scikit-learn).

    Parameters
    ----------
    conversations : sequence of sequences of mapping
        Messages ``{"role": "user" | "assistant" | "system", "content": str}``; each ends with the user's.
    method : str
        Method string; its measured shift is applied.
    predictor : LengthModel, optional
        The packaged one if not given.
    shifts : str or Path, optional
        File of measured shifts, as ``kvpred shift --output`` writes it; the packaged one if not given.

    Further parameters and the errors are those of `kvpred.predictors.length.estimate.predict_length`.
    """
    from kvpred.methods import get_method
    from kvpred.predictors.length import estimate
    from kvpred.predictors.length.shift import read_shifts

    chosen = predictor if predictor is not None else _packaged_lengths()
    learnt = get_method(method).spec == chosen.method_params
    known = [] if learnt else read_shifts(PACKAGED_SHIFTS if shifts is None else shifts)
    return estimate.predict_length(conversations, predictor=chosen, method=method, shifts=known, **request)


def load(path: str | Path) -> Predictor | LengthModel:
    """Open a predictor bundle, of throughput or of lengths.

    Raises
    ------
    DataError
        If there is no bundle, or it is damaged or of a newer schema.
    """
    from kvpred.predictors import sealed

    if sealed.kind_of(path) == "length":
        from kvpred.predictors.length import bundle as lengths

        return lengths.load(path)
    from kvpred.predictors import bundle

    return bundle.load(path)


@cache
def _packaged() -> Predictor:
    from kvpred.predictors import bundle

    return bundle.load(PACKAGED)


@cache
def _packaged_lengths() -> LengthModel:
    from kvpred.predictors.length import bundle

    return bundle.load(PACKAGED_LENGTHS)
