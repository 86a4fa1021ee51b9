"""What holding sites out found, as values: by site, by method and stage, by split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kvpred.evaluation.intervals import Coverage
from kvpred.evaluation.ranking import Ranking


@dataclass(frozen=True, slots=True)
class SitePrediction:
    """One held-out site of one split.

    Parameters
    ----------
    split, stage, method : str
    bsz, prompt_len, output_len, count : int
        The site, and the runs that its median is taken of.
    measured_s, predicted_s, low_s, high_s : float
        Seconds of the whole prefill or of one decode step; the interval is at the report's level.
    copy_s : float
        What fp16's own fit in the same fold says, with the tokens that the method attends to.
    fp16_measured_s : float or None
        What fp16 took at this very site; None where it was not measured, and for fp16 itself.
    noise : float
        Expected relative deviation of the measured median from the true one.
    """

    split: str
    stage: str
    method: str
    bsz: int
    prompt_len: int
    output_len: int
    count: int
    measured_s: float
    predicted_s: float
    low_s: float
    high_s: float
    copy_s: float
    fp16_measured_s: float | None
    noise: float

    @property
    def error(self) -> float:
        """Signed error of the predicted time, relative to the measured one."""
        return self.predicted_s / self.measured_s - 1.0


@dataclass(frozen=True, slots=True)
class CellAccuracy:
    """Accuracy of one method and stage: the mean of 1 - |predicted - measured| / measured over its sites.

    Parameters
    ----------
    stage, method : str
    n_sites : int
    accuracy : float
        Of the predictor.
    ceiling : float
        Expected of a predictor that knows every true time, see `kvpred.evaluation.noise`.
    copy : float
        Of fp16's fit from the same training sites, with the tokens that the method attends to.
    measured_copy : float or None
        Of the time that fp16 itself took at the held-out site; None for fp16, which would be its own truth.
    skill : float or None
        1 - error / error of `copy`: 0 is no better than copying, 1 perfect; None for fp16.
    """

    stage: str
    method: str
    n_sites: int
    accuracy: float
    ceiling: float
    copy: float
    measured_copy: float | None
    skill: float | None


@dataclass(frozen=True, slots=True)
class SplitAccuracy:
    """Accuracy under one way of holding sites out.

    Parameters
    ----------
    split : str
        See `kvpred.predictors.crossval.folds`.
    mean, ceiling, copy : float
        Means over methods and stages, fp16 included.
    worst : float
        The lowest accuracy of a method and stage.
    worst_cell : str
        Which that is.
    skill : float or None
        1 - error / error of the copy, over all methods but fp16; None where there is only fp16.
    cells : tuple of CellAccuracy
    intervals : tuple of Coverage
        By stage.
    rankings, copy_rankings : tuple of Ranking
        By stage, of the predictor and of the copy.
    """

    split: str
    mean: float
    ceiling: float
    copy: float
    worst: float
    worst_cell: str
    skill: float | None
    cells: tuple[CellAccuracy, ...]
    intervals: tuple[Coverage, ...]
    rankings: tuple[Ranking, ...]
    copy_rankings: tuple[Ranking, ...]


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """What holding sites out says about a predictor.

    Parameters
    ----------
    level : float
        Level of the intervals.
    seed : int
        Of the random rows.
    n_sites, n_runs, n_moved : int
        Sites, the runs pooled in them, and the runs whose length was aligned.
    splits : tuple of SplitAccuracy
    left_out : mapping of str to str
        By ``split, stage``: what the table is too small for, and why.
    sites : tuple of SitePrediction
        Every held-out site of every split.
    worst_sites : tuple of SitePrediction
        The ten largest errors, each site in its worst split, random rows left aside.
    """

    level: float
    seed: int
    n_sites: int
    n_runs: int
    n_moved: int
    splits: tuple[SplitAccuracy, ...]
    left_out: Mapping[str, str]
    sites: tuple[SitePrediction, ...]
    worst_sites: tuple[SitePrediction, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values that JSON can hold."""
        return asdict(self)
