"""From published scores per sample to the table of quality that the package carries."""

from __future__ import annotations

from pathlib import Path

from kvpred.data.quality import PACKAGED, write_quality
from kvpred.evaluation.quality import study_quality


def package_quality(folder: Path, output: Path = PACKAGED) -> None:
    """Write the table of published quality anew; ``make quality`` calls this.

    Parameters
    ----------
    folder : Path
        See `kvpred.evaluation.quality.study_quality`.
    output : Path
    """
    write_quality(output, study_quality(folder))
