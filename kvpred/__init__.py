"""Predict what serving an LLM with KV-cache compression really costs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvpred._version import __version__

if TYPE_CHECKING:
    from kvpred.predictors.estimate import Estimate
    from kvpred.predictors.predictor import Predictor

__all__ = ["__version__", "load", "predict"]

PACKAGED = Path(__file__).parent / "data" / "packaged" / "llama-2-7b_a6000_lmdeploy"


def predict(
    *, method: str, bsz: Any, prompt_len: Any, predictor: Predictor | None = None, **request: Any
) -> Estimate:
    """Predict memory, throughput and latency of a batch with the packaged predictor, or the one given.

    Parameters, fields and errors are those of `kvpred.predictors.estimate.predict`.

    Examples
    --------
    >>> predict(method="h2o", bsz=[1, 8], prompt_len=2048).in_domain.tolist()
    [True, True]
    """
    from kvpred.predictors import estimate

    chosen = predictor if predictor is not None else _packaged()
    return estimate.predict(method=method, bsz=bsz, prompt_len=prompt_len, predictor=chosen, **request)


def load(path: str | Path) -> Predictor:
    """Open a predictor bundle.

    Raises
    ------
    DataError
        If there is no bundle, or it is damaged or of a newer schema.
    """
    from kvpred.predictors import bundle

    return bundle.load(path)


@cache
def _packaged() -> Predictor:
    return load(PACKAGED)
