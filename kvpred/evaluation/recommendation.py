"""A recommendation: methods ranked under limits, the reasons against others, and published quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kvpred.data.limits import Limit, shown_s
from kvpred.errors import DoesNotFitError, KvpredError, UsageError
from kvpred.evaluation.quality import QualityMatch
from kvpred.methods import BASELINE
from kvpred.predictors.recommend import Candidate, Terms
from kvpred.predictors.scaling import Place


@dataclass(frozen=True, slots=True, eq=False)
class Recommendation:
    """What became of every method.

    Parameters
    ----------
    place : Place
    engine : str
    terms : Terms
    candidates : tuple of Candidate
        The ranked ones, the cheapest first; then the rejected ones, the nearest to the limits first.
    quality : mapping of str to QualityMatch or None
        By full method string; None where no score is published. It does not count in the ranking.
    notes : tuple of str
        What a reader must know, a sentence each.
    """

    place: Place
    engine: str
    terms: Terms
    candidates: tuple[Candidate, ...]
    quality: Mapping[str, QualityMatch | None]
    notes: tuple[str, ...]

    @property
    def ranked(self) -> list[Candidate]:
        """Those that keep the limits, the cheapest first."""
        return [candidate for candidate in self.candidates if not candidate.rejected]

    @property
    def rejected(self) -> list[Candidate]:
        """The others."""
        return [candidate for candidate in self.candidates if candidate.rejected]

    @property
    def finding(self) -> str:
        """The answer in a sentence or two."""
        if not self.ranked:
            return str(self.refusal())
        first, *others = self.ranked
        assert first.best is not None and first.standing is not None
        text = f"{first.method.name} at batch {first.best.bsz} is expected to cost least"
        if not others:
            return f"{text}: no other method keeps the limits" if len(self.candidates) > 1 else text
        text += f" of {len(self.ranked)} methods{' that keep the limits' if self.terms.limits else ''}"
        second = others[0]
        assert second.standing is not None and second.best is not None
        text += f", and is the cheapest with a probability of {first.standing.chance:.0%}"
        likely = max(self.ranked, key=lambda one: one.standing.chance if one.standing else 0.0)
        if likely is not first and likely.standing is not None:
            text += f" ({likely.method.name}, which may cost far more, with {likely.standing.chance:.0%})"
        text += f"; the runner-up is {second.method.name} at batch {second.best.bsz}"
        if not self.terms.price_per_hour:
            return text
        more = second.standing.usd_per_request / first.standing.usd_per_request - 1
        return f"{text}, expected to cost {more:.1%} more"

    def refusal(self) -> KvpredError:
        """Return why nothing is recommended: which limit no method keeps, and by how much it is missed."""
        fitting = [candidate for candidate in self.candidates if candidate.batches]
        if not fitting:
            return DoesNotFitError(
                f"no method fits {self.place.model.name} and one such request on {self.place.device.name} x "
                f"{self.place.tp}: `kvpred memory` shows what takes the room"
            )
        faults = [
            fault for limit in self.terms.limits if (fault := _out_of_reach(limit, fitting, self.terms))
        ]
        if not faults and any(_kept(candidate, self.terms) for candidate in fitting):
            faults = ["the methods that keep the limits lose more quality than --max-quality-loss allows"]
        if not faults:
            nearest = next(candidate for candidate in self.candidates if candidate.batches)
            faults = [f"each limit can be kept, not all at once; nearest is {nearest.method.spec}, which "
                      f"{nearest.rejected}"]  # fmt: skip
        return UsageError(f"no method can be recommended: {'; '.join(faults)}")


def within_quality(candidate: Candidate, match: QualityMatch | None, most: float | None) -> Candidate:
    """Reject a method whose published loss is above a share; one without a published score stays.

    Parameters
    ----------
    candidate : Candidate
    match : QualityMatch or None
    most : float or None
        None takes any loss.
    """
    if most is None or match is None or candidate.rejected or match.published.loss <= most:
        return candidate
    of = "" if match.exact else f" as {match.published.method_params}, of the same size"
    return replace(
        candidate, rejected=f"published quality: loses {match.published.loss:.1%} of fp16's score{of}"
    )


def unknown_quality(quality: Mapping[str, QualityMatch | None]) -> list[str]:
    """Return the methods without a published score."""
    return [spec for spec, match in quality.items() if match is None and spec != BASELINE]


def _kept(candidate: Candidate, terms: Terms) -> bool:
    return any(batch.meets(terms.limits) for batch in candidate.batches)


def _out_of_reach(limit: Limit, fitting: list[Candidate], terms: Terms) -> str | None:
    """Say by how much a limit is missed that no method keeps at any batch."""
    row = terms.limits.index(limit)
    best, who = min(
        ((batch.reached_s[row], (candidate.method.name, batch.bsz)) for candidate in fitting
         for batch in candidate.batches),
        key=lambda found: found[0],
    )  # fmt: skip
    if best <= limit.seconds:
        return None
    return (
        f"{limit} is out of reach: {who[0]} comes nearest with {shown_s(best)} at batch {who[1]}, "
        f"{best / limit.seconds - 1:.0%} over"
    )
