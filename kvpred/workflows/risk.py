"""From scores to what can be told beforehand of the requests that methods break."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kvpred.data.risk import FEATURES_FILE, read_sizes
from kvpred.data.scores import ScoreRun, run_labels
from kvpred.evaluation.negatives import Center, find_negatives
from kvpred.evaluation.risk import THRESHOLD, RiskStudy, judge_risk
from kvpred.workflows.reading import blamed_on


def study_risk(
    folder: Path,
    baseline: ScoreRun,
    methods: Sequence[ScoreRun],
    *,
    labels: Mapping[str, str] | None = None,
    threshold: float = THRESHOLD,
    center: Center = Center.median,
    level: float = 0.9,
    seed: int = 0,
) -> list[RiskStudy]:
    """Judge for each method whether the requests that it breaks can be told beforehand, held out by dataset.

    Parameters
    ----------
    folder : Path
        Which the scores are from; its ``features.csv``, if there is one, has the sizes of the requests.
    baseline : ScoreRun
    methods : sequence of ScoreRun
    labels : mapping of str to str, optional
        For people, by the runs' names; made of these, if not given.
    threshold : float
        Share of the baseline's score whose loss breaks a request.
    center : Center
        Requests that reach it, of the baseline's scores on their dataset, are answered well.
    level : float
        Of the intervals.
    seed : int
        Of the bootstrap.

    Raises
    ------
    UsageError
        If the threshold is out of range.
    DataError
        If runs do not match, sizes are wrong or lacking, or there are too few datasets.
    MissingExtraError
        If scikit-learn is not installed.
    """
    features = folder / FEATURES_FILE
    sizes = read_sizes(features) if features.exists() else None
    shown = labels or run_labels([baseline.name, *(run.name for run in methods)])
    found = []
    for run in methods:
        negatives = find_negatives(baseline, [run], threshold=threshold, center=center)
        with blamed_on([folder]):
            found.append(judge_risk(negatives, sizes=sizes, label=shown[run.name], level=level, seed=seed))
    return found
