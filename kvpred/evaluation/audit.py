"""Judge measured data before anything is learnt from it: can these times be what they claim to be?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from kvpred.evaluation.findings import Finding
from kvpred.evaluation.profile_checks import check_profile
from kvpred.evaluation.profile_copies import find_copies
from kvpred.evaluation.run_checks import check_runs

if TYPE_CHECKING:
    from kvpred.data.profiles import Profile
    from kvpred.data.runs import Run
    from kvpred.hardware import DeviceSpec
    from kvpred.models import ModelSpec

__all__ = ["Finding", "audit_profiles", "audit_runs"]

_ORDER = ("error", "warning", "note")


def audit_profiles(profiles: Iterable[Profile]) -> list[Finding]:
    """Look for copies among operator profiles, and for impossible or useless times in each.

    Parameters
    ----------
    profiles : iterable of Profile

    Returns
    -------
    list of Finding
        The gravest first.
    """
    profiles = list(profiles)
    findings = find_copies(profiles) + [found for profile in profiles for found in check_profile(profile)]
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def audit_runs(runs: Iterable[Run], models: Mapping[str, ModelSpec], device: DeviceSpec) -> list[Finding]:
    """Look for runs that the named models cannot have made on the device.

    Parameters
    ----------
    runs : iterable of Run
        Of one engine and tensor-parallel degree. Only uncompressed ones are judged, with 16-bit weights:
        their bytes and FLOPs are known for certain.
    models : mapping of str to ModelSpec
        The architecture that each label (or, without labels, each model name) stands for.
    device : DeviceSpec

    Returns
    -------
    list of Finding
        The gravest first.
    """
    return sorted(check_runs(runs, models, device), key=lambda finding: _ORDER.index(finding.severity))
