"""Throughput of measured runs: medians, their noise, and speed-ups against fp16 of the same engine."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, hypot, log

import numpy as np
from numpy.typing import NDArray

from kvpred.data.runs import Run
from kvpred.data.sites import RunSite, SiteTable, nominal_length, pool_sites
from kvpred.evaluation.noise import median_noise
from kvpred.evaluation.ranking import speedup_bounds, told_apart
from kvpred.methods import BASELINE, get_method

Floats = NDArray[np.float64]
_Key = tuple[str, str, RunSite]

# With fewer pairs nothing tells how far they scatter.
_LEAST_PAIRS = 2


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """An engine on a machine: what runs must share for their speeds to be compared.

    Parameters
    ----------
    engine, device : str
    host : str
        Empty where the runs do not say.
    """

    engine: str
    device: str
    host: str = ""

    @classmethod
    def of(cls, run: Run) -> Setting:
        """Return where a run ran."""
        return cls(run.engine, run.device, run.host or "")


@dataclass(frozen=True, slots=True)
class Throughput:
    """A method's throughput at a site.

    Parameters
    ----------
    setting : Setting
    method : str
        Full method string.
    stage : {"prefill", "decode"}
    site : RunSite
        `output_len` is 1 for prefill, and where the runs do not say.
    tok_s : float
        Median over the counted repeats, tokens per second of the whole batch.
    runs : int
        Repeats counted: those without a mark, or all of them if every one is marked.
    marks : mapping of str to int
        How many repeats carry which mark, counted or not.
    doubtful : bool
        Whether only marked repeats could be counted, of the method or of the fp16 that it is compared with.
    error : float or None
        Relative standard error of the median; None in a stage where the setting repeats nothing.
    speedup : float or None
        Against fp16; None for fp16 itself, or where that was not measured.
    speedup_error : float or None
        Standard error of the speed-up's logarithm.
    pairs : int
        Repeats paired with fp16's of the same number; 0 where the two medians were compared instead.
    """

    setting: Setting
    method: str
    stage: str
    site: RunSite
    tok_s: float
    runs: int
    marks: Mapping[str, int]
    doubtful: bool
    error: float | None
    speedup: float | None = None
    speedup_error: float | None = None
    pairs: int = 0

    @property
    def told_apart(self) -> int | None:
        """1 if faster than fp16 beyond two standard errors, -1 if slower, 0 if neither; None if unknown."""
        return told_apart(self.speedup, self.speedup_error)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The speed-up less and plus two standard errors."""
        return speedup_bounds(self.speedup, self.speedup_error)


def throughputs(runs: Iterable[Run]) -> list[Throughput]:
    """Return the throughput of every setting, method, stage and site, with speed-ups where fp16 is there too.

    Methods are measured in turn, so repeats with the same number (and label, where a published table has
    them) share the machine's state. Where fp16 and a method have two or more such pairs, the speed-up is the
    median of their ratios, and the spread of the ratios is its noise; else it is the ratio of the medians,
    with the noise of both. A spread is the site's own, or that of all sites of method and stage, whichever is
    larger: a few repeats say little by themselves.

    Parameters
    ----------
    runs : iterable of Run
        Of one model and one tensor-parallel degree. A published decode length that counts generated tokens in
        is taken for the nominal one, see `kvpred.data.sites.pool_sites`.

    Returns
    -------
    list of Throughput
        Sorted by setting, method, stage and site.

    Raises
    ------
    DataError
        If repeats of a site contradict each other, see `kvpred.data.sites.pool_sites`.
    """
    groups: defaultdict[Setting, list[Run]] = defaultdict(list)
    for run in runs:
        groups[Setting.of(run)].append(run)
    return [found for setting in sorted(groups) for found in _of_setting(setting, groups[setting])]


def _of_setting(setting: Setting, runs: Sequence[Run]) -> list[Throughput]:
    repeats: defaultdict[_Key, list[Run]] = defaultdict(list)
    # In an order of their own, or sums would differ in their last digit with the order of the rows.
    for run in sorted(_nominal(runs), key=lambda run: (run.throughput_tok_s, run.repeat, run.label or "")):
        output_len = run.output_len if run.stage == "decode" and run.output_len is not None else 1
        repeats[run.method_params, run.stage, RunSite(run.bsz, run.prompt_len, output_len)].append(run)
    counted = {key: [run for run in own if run.mark is None] or own for key, own in repeats.items()}
    table = pool_sites((run for own in counted.values() for run in own), align_lengths=False)
    keys = _keys(table)
    errors = dict(zip(keys, median_errors(table).tolist(), strict=True))
    found = {
        key: Throughput(
            setting, *key,
            tok_s=float(table.throughput_tok_s[row]),
            runs=int(table.count[row]),
            marks=dict(sorted(Counter(run.mark for run in repeats[key] if run.mark is not None).items())),
            doubtful=counted[key][0].mark is not None,
            error=_known(errors[key]),
        )
        for row, key in enumerate(keys)
    }  # fmt: skip
    return _compared(found, table, {key: _by_repeat(own) for key, own in counted.items()})


def _nominal(runs: Iterable[Run]) -> Iterable[Run]:
    """Return the runs under their methods' full names and at their nominal prompt lengths."""
    runs = list(runs)
    nominal = {run.prompt_len for run in runs if run.stage == "prefill"}
    for run in runs:
        length = nominal_length(run, nominal)
        spec = get_method(run.method_params).spec
        yield run.model_copy(update={"method_params": spec, "prompt_len": length})


def _keys(table: SiteTable) -> list[_Key]:
    places = zip(table.bsz.tolist(), table.prompt_len.tolist(), table.output_len.tolist(), strict=True)
    sites = [RunSite(*place) for place in places]
    return list(zip(table.method.tolist(), table.stage.tolist(), sites, strict=True))


def median_errors(table: SiteTable) -> Floats:
    """Return the relative standard error of each median, shape (n_sites,).

    From the spread of the site's own repeats, or of all sites of its method and stage, whichever is larger.
    NaN in a stage where no site has repeats.
    """
    pooled = median_noise(table).error
    alone = [
        median_noise(table.select(np.array([row]))).error[0] if count > 1 else 0.0
        for row, count in enumerate(table.count)
    ]
    repeated = np.isin(table.stage, table.stage[table.count > 1])
    return np.where(repeated, np.maximum(pooled, alone), np.nan)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


_Repeats = Mapping[tuple[str | None, int | None, int], float]


def _by_repeat(runs: Sequence[Run]) -> _Repeats:
    """Return the mean log throughput of each repeat."""
    found: defaultdict[tuple[str | None, int | None, int], list[float]] = defaultdict(list)
    for run in runs:
        found[run.label, run.output_len, run.repeat].append(log(run.throughput_tok_s))
    return {repeat: float(np.mean(values)) for repeat, values in found.items()}


def _compared(
    found: Mapping[_Key, Throughput], table: SiteTable, repeats: Mapping[_Key, _Repeats]
) -> list[Throughput]:
    """Return the same with speed-ups, of pairs of repeats where there are enough."""
    ratios: dict[_Key, Floats] = {}
    for method, stage, site in found:
        usual = repeats.get((BASELINE, stage, site), {})
        own = repeats[method, stage, site]
        gains = [own[repeat] - usual[repeat] for repeat in own if repeat in usual]
        if method != BASELINE and len(gains) >= _LEAST_PAIRS:
            ratios[method, stage, site] = np.sort(gains)
    errors = _pair_errors(table.select(np.array([key in ratios for key in found])), ratios)
    return [
        _against(each, found.get((BASELINE, *key[1:])), ratios.get(key), errors.get(key))
        for key, each in found.items()
    ]


def _pair_errors(table: SiteTable, ratios: Mapping[_Key, Floats]) -> dict[_Key, float]:
    """Return the standard error of the median log ratio of each key, in the order of the table."""
    if not ratios:
        return {}
    counts = np.array([len(gains) for gains in ratios.values()])
    spreads = np.array([float(np.std(gains, ddof=1)) for gains in ratios.values()])
    errors = median_errors(replace(table, count=counts, spread=spreads))
    return dict(zip(ratios, errors.tolist(), strict=True))


def _against(
    own: Throughput, usual: Throughput | None, ratios: Floats | None, error: float | None
) -> Throughput:
    if own.method == BASELINE or usual is None:
        return own
    own = replace(own, doubtful=own.doubtful or usual.doubtful)
    if ratios is not None:
        return replace(own, speedup=exp(float(np.median(ratios))), speedup_error=error, pairs=len(ratios))
    both = None if own.error is None or usual.error is None else hypot(own.error, usual.error)
    return replace(own, speedup=own.tok_s / usual.tok_s, speedup_error=both)
