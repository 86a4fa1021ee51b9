"""From published scores per sample to the tables of quality and of risk that the package carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

from kvpred.data.quality import PACKAGED, PublishedQuality, write_quality
from kvpred.data.risk import PACKAGED as PACKAGED_RISK
from kvpred.data.risk import PublishedRisk, write_risk
from kvpred.data.scores import read_score_runs
from kvpred.evaluation.quality import study_quality
from kvpred.evaluation.risk import RiskStudy
from kvpred.workflows.risk import study_risk

# Decimals: more than any sample tells.
_DIGITS = 4


def package_quality(folder: Path, output: Path = PACKAGED) -> None:
    """Write the table of published quality anew; ``make quality`` calls this.

    Parameters
    ----------
    folder : Path
        See `kvpred.evaluation.quality.study_quality`.
    output : Path
    """
    write_quality(output, study_quality(folder))


def package_risk(folder: Path, output: Path = PACKAGED_RISK) -> None:
    """Write the table of published risks anew; ``make quality`` calls this too.

    Parameters
    ----------
    folder : Path
        See `kvpred.evaluation.quality.study_quality`.
    output : Path
    """
    published = {row.published_as: row for row in study_quality(folder)}
    runs = read_score_runs(folder)
    # The one run that is not compared with the baseline is the baseline.
    (baseline,) = runs.keys() - published.keys()
    studies = study_risk(folder, runs[baseline], [runs[name] for name in published])
    write_risk(output, (row for study in studies for row in _rows(published[study.run], study)))


def _rows(published: PublishedQuality, study: RiskStudy) -> Iterator[PublishedRisk]:
    auc, auc_low, auc_high = _rounded(*astuple(study.auc))
    skill, skill_low, skill_high = _rounded(*astuple(study.skill))
    for one in study.shares:
        share, low, high = _rounded(one.share, one.low, one.high)
        yield PublishedRisk(
            method_params=published.method_params,
            published_as=published.published_as,
            model=published.model,
            task=one.task,
            benign=one.benign,
            broken=one.broken,
            share=share,
            low=low,
            high=high,
            auc=auc,
            auc_low=auc_low,
            auc_high=auc_high,
            skill=skill,
            skill_low=skill_low,
            skill_high=skill_high,
            level=study.level,
            source=published.source,
        )


def _rounded(*values: float) -> Iterator[float]:
    return (round(value, _DIGITS) for value in values)
