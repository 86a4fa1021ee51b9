"""What an audit reports: one suspicion each, with the figures it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or cannot be judged, in measured data.

    Parameters
    ----------
    check : str
        Slug of the check, such as ``scaled-copy``.
    severity : {"error", "warning", "note"}
        Whether the data cannot be a measurement of what it claims, is doubtful, or is of limited use.
    subject : str
        What it is about.
    message : str
        One sentence with the figures.
    evidence : dict of str to float
        The figures by name.
    """

    check: str
    severity: Severity
    subject: str
    message: str
    evidence: dict[str, float] = field(default_factory=dict)
