"""What live validation found, as values: by site, by method and stage, by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from kvpred.evaluation.intervals import Coverage
from kvpred.evaluation.ranking import Ranking
from kvpred.evaluation.verdict import Verdict


@dataclass(frozen=True, slots=True)
class LivePrediction:
    """What was said of a site before it was measured.

    Parameters
    ----------
    method : str
        Full method string.
    stage : {"prefill", "decode"}
    bsz, prompt_len, output_len : int
    predicted_s, low_s, high_s : float
        Seconds of the whole prefill, or of a decode step, and their interval.
    copy_s : float
        What fp16's own fit says, with the tokens that the method attends to.
    """

    method: str
    stage: str
    bsz: int
    prompt_len: int
    output_len: int
    predicted_s: float
    low_s: float
    high_s: float
    copy_s: float


@dataclass(frozen=True, slots=True)
class LiveSite:
    """A prediction beside the measurement.

    Parameters
    ----------
    predicted : LivePrediction
    measured_s : float
        Median of the repeats.
    count, marked : int
        Repeats, and those of them that carry a mark (a busy host, drift).
    error_of_median, expected_loss : float
        Relative standard error of that median, and its expected absolute deviation from the truth; see
        `kvpred.evaluation.noise`.
    """

    predicted: LivePrediction
    measured_s: float
    count: int
    marked: int
    error_of_median: float
    expected_loss: float

    @property
    def error(self) -> float:
        """Signed error of the predicted time, relative to the measured one."""
        return self.predicted.predicted_s / self.measured_s - 1.0

    @property
    def inside(self) -> bool:
        """Whether the measured time lies in the interval."""
        return self.predicted.low_s <= self.measured_s <= self.predicted.high_s


@dataclass(frozen=True, slots=True)
class LiveCell:
    """One method and stage.

    Parameters
    ----------
    stage, method : str
    n_sites, n_runs : int
    accuracy, copy : float
        Mean of 1 - |predicted - measured| / measured, of the predictor and of the copy of fp16's fit.
    ceiling : float
        Expected accuracy of a predictor that knows every true time.
    error_of_median : float
        Mean relative standard error of the measured medians.
    skill : float or None
        1 - error / error of the copy; None for fp16, and where the copy is perfect.
    half_width : float
        Mean half-width of the intervals, relative to the predicted time.
    inside : int
        Sites inside their interval.
    speedups, right_signs : int
        Sites where the method and fp16 differ by more than noise, and those whose sign was foretold.
    """

    stage: str
    method: str
    n_sites: int
    n_runs: int
    accuracy: float
    copy: float
    ceiling: float
    error_of_median: float
    skill: float | None
    half_width: float
    inside: int
    speedups: int
    right_signs: int


@dataclass(frozen=True, slots=True)
class LiveStage:
    """One stage, all methods together.

    Parameters
    ----------
    stage : str
    accuracy, ceiling, error_of_median : float
        Means over the methods, fp16 included.
    skill : float or None
        Over all methods but fp16.
    intervals : Coverage
    ranking, copy_ranking : Ranking
        Of the predictor and of the copy; pairs are told apart by paired repeats, see
        `kvpred.evaluation.live.judge_live`.
    """

    stage: str
    accuracy: float
    ceiling: float
    error_of_median: float
    skill: float | None
    intervals: Coverage
    ranking: Ranking
    copy_ranking: Ranking


@dataclass(frozen=True, slots=True)
class LiveReport:
    """What came of predictions made beforehand.

    Parameters
    ----------
    level : float
        Level of the intervals.
    n_runs, marked : int
        Runs judged by, and those of them that carry a mark.
    stages : tuple of LiveStage
    cells : tuple of LiveCell
    sites : tuple of LiveSite
    unmeasured : tuple of LivePrediction
        Predictions of what was not measured.
    """

    level: float
    n_runs: int
    marked: int
    stages: tuple[LiveStage, ...]
    cells: tuple[LiveCell, ...]
    sites: tuple[LiveSite, ...]
    unmeasured: tuple[LivePrediction, ...]


@dataclass(frozen=True, slots=True)
class LiveValidation:
    """A live validation, with everything that a reader needs to judge it.

    Parameters
    ----------
    name, provenance : str
        Of the bundle.
    written_at : datetime
        When the predictions were written, before the first run.
    digest : str
        SHA-256 of their file.
    seed : int
        Of the sites.
    report : LiveReport
    verdict : Verdict
        As a calibration is judged, but by sites that were measured afterwards.
    drift : mapping of str to float
        By stage: how many times longer fp16 took than when it was calibrated, at sites known from there.
    steady_accuracy : mapping of str to float
        By stage: mean accuracy with the drift taken out of the measured times.
    notes : tuple of str
        What a reader must know about the runs, a sentence each.
    """

    name: str
    provenance: str
    written_at: datetime
    digest: str
    seed: int
    report: LiveReport
    verdict: Verdict
    drift: Mapping[str, float]
    steady_accuracy: Mapping[str, float]
    notes: tuple[str, ...] = ()
