"""All that was found out about one predictor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvpred.evaluation.accuracy_report import AccuracyReport
from kvpred.evaluation.few_shot import FewShotReport
from kvpred.evaluation.published import PublishedScoring


@dataclass(frozen=True, slots=True)
class Validation:
    """A predictor's accuracy, with everything that a reader needs to judge it.

    Parameters
    ----------
    name : str
        Of the bundle.
    report : AccuracyReport
    few_shot : FewShotReport or None
    published : PublishedScoring or None
        The same data under the published tool's definitions.
    labels : mapping of str to mapping of str to float
        By label, accuracy of its runs alone.
    notes : tuple of str
        What a reader must know about the measurements, a sentence each.
    """

    name: str
    report: AccuracyReport
    few_shot: FewShotReport | None
    published: PublishedScoring | None
    labels: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...]
