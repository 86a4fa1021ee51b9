"""How much quality published runs lost to compression: LongBench scores per sample against fp16's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvpred.data.longbench import DATASETS
from kvpred.data.quality import PublishedQuality
from kvpred.data.scores import ScoreRun, read_score_runs
from kvpred.errors import DataError
from kvpred.methods import BASELINE, Method, get_method
from kvpred.models import ModelSpec, get_model

MODEL = "llama-3-8b"
SOURCE = "Llama-3-8B-Instruct, github.com/LLMkvsys/rethink-kv-compression (MLSys 2025), benchmark_neg"
_SETUP = "_Meta-Llama-3-8B-instruct_8192_b1"
# Tokens at which two caches count as of one size: the runs' context.
_CONTEXT = 8192
# Budgets as the runs' names tell: c tokens are kept, w of them the latest; the rest is chosen by the method.
_NAMES = (
    (re.compile("hf"), BASELINE),
    (re.compile(r"gear_(?P<bits>\d)bits"), "gear:bits={bits}"),
    (
        re.compile(r"kivi_(?P<bits>\d)bits_group(?P<group>\d+)_residual(?P<residual>\d+)"),
        "kivi:bits={bits},group_size={group},residual_length={residual}",
    ),
    (re.compile(r"h2o_c(?P<c>\d+)_w(?P<w>\d+)_k\d+_maxpool"), "h2o:heavy={rest},recent={w}"),
    (
        re.compile(r"streamingllm_c(?P<c>\d+)_w(?P<w>\d+)_k\d+_maxpool"),
        "streamingllm:sinks={rest},recent={w}",
    ),
)


@dataclass(frozen=True, slots=True)
class QualityMatch:
    """A published run that speaks of a method.

    Parameters
    ----------
    published : PublishedQuality
    exact : bool
        Whether it had these very parameters; else it kept as many bytes, divided otherwise.
    """

    published: PublishedQuality
    exact: bool


def quality_of(method: Method, runs: Sequence[PublishedQuality]) -> QualityMatch | None:
    """Return the run of a method with these parameters, or else of its name and with as large a cache.

    None if there is none: scores are not predicted.

    Examples
    --------
    >>> from kvpred.data.quality import read_quality
    >>> quality_of(get_method("h2o"), read_quality()).published.method_params
    'h2o:heavy=448,recent=64'
    """
    for run in runs:
        if run.method_params == method.spec:
            return QualityMatch(run, exact=True)
    model = get_model(MODEL)
    size = _size(method, model)
    for run in runs:
        other = get_method(run.method_params)
        if other.name == method.name and _size(other, model) == size:
            return QualityMatch(run, exact=False)
    return None


def _size(method: Method, model: ModelSpec) -> int:
    return int(method.cache_bytes(model, bsz=1, kv_len=_CONTEXT, prompt_len=_CONTEXT))


def study_quality(
    folder: Path, *, level: float = 0.9, resamples: int = 2000, seed: int = 0
) -> list[PublishedQuality]:
    """Compare the mean scores of published runs with fp16's, over the datasets that both have.

    The interval comes of samples drawn anew within each dataset, the same for both runs.

    Parameters
    ----------
    folder : Path
        Of files ``<run>_<dataset>_eval.json``, each a list of ``{"id", "score"}``.
    level : float
    resamples, seed : int
        Of the bootstrap.

    Raises
    ------
    DataError
        If there is no run of fp16, a file is wrong, or a name is not understood.
    """
    by_method = {_method_of(name, folder): run for name, run in read_score_runs(folder).items()}
    if BASELINE not in by_method:
        raise DataError(f"no scores of {BASELINE} (hf_..._eval.json) in this folder", path=folder)
    return [
        _compared(method, run, by_method[BASELINE], level=level, resamples=resamples, seed=seed)
        for method, run in by_method.items()
        if method != BASELINE
    ]


def _method_of(run: str, folder: Path) -> str:
    short = run.replace(_SETUP, "", 1)
    for pattern, spec in _NAMES:
        if match := pattern.fullmatch(short):
            found = match.groupdict()
            if "c" in found:
                found["rest"] = str(int(found["c"]) - int(found["w"]))
            return get_method(spec.format(**found)).spec
    raise DataError("the name tells no method that is known", path=folder, value=run)


def _compared(
    method: str, run: ScoreRun, baseline: ScoreRun, *, level: float, resamples: int, seed: int
) -> PublishedQuality:
    rng = np.random.default_rng(seed)
    pairs = []
    for dataset in DATASETS:
        own, base = run.scores.get(dataset, {}), baseline.scores.get(dataset, {})
        common = sorted(own.keys() & base.keys())
        if common:
            pairs.append(np.array([[own[key], base[key]] for key in common]))
    means = np.mean([pair.mean(axis=0) for pair in pairs], axis=0)
    drawn = np.mean([_resampled(pair, resamples, rng) for pair in pairs], axis=0)
    low, high = np.quantile(1 - drawn[:, 0] / drawn[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return PublishedQuality(
        method_params=method,
        published_as=run.name,
        model=MODEL,
        score=round(float(means[0]), 5),
        baseline_score=round(float(means[1]), 5),
        loss=round(float(1 - means[0] / means[1]), 5),
        loss_low=round(float(low), 5),
        loss_high=round(float(high), 5),
        level=level,
        datasets=len(pairs),
        samples=sum(map(len, pairs)),
        source=SOURCE,
    )


def _resampled(pair: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the mean scores of samples drawn anew, shape (n, 2)."""
    rows = rng.integers(len(pair), size=(n, len(pair)))
    return np.asarray(pair[rows].mean(axis=1))
