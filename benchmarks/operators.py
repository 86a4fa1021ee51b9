"""Train each operator of a profile with `auto` and with Vidur's default grid search; time and held-out error.

    python benchmarks/operators.py PROFILE --device a6000 --model llama-2-7b --method fp16
    python benchmarks/operators.py PROFILE ... --operators mlp_act      # two minutes instead of an hour

Both learn from the same rows and are judged on the same others: a tenth of all rows, of the batch sizes and
of the lengths. Ours trains on one thread, Vidur's search on all processors, as is its default. The search is
that of vidur 0.0.26 (``sklearn_execution_time_predictor.py``, ``random_forrest_execution_time_predictor.py``,
``config.py``): its features, grid, folds and scorer, on the operators that it trains. Operators that always
take 0 ms are left out: ours needs no time for them and Vidur minutes, which would flatter the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV

from kvpred.data.files import write_text
from kvpred.data.store import read_profile
from kvpred.errors import KvpredError
from kvpred.predictors.operators import AutoRegressor, OperatorTable, operator_tables
from kvpred.predictors.operators.evaluate import HeldOutError, Mask, score_predictions
from kvpred.predictors.operators.features import FloatArray
from kvpred.predictors.operators.folds import varying_axes, whole_value_folds

VIDUR_GRID = {
    "n_estimators": [250, 500, 750],
    "max_depth": [8, 16, 32],
    "min_samples_split": [2, 5, 10],
}
VIDUR_FOLDS, VIDUR_FOLDS_IF_FEWER_ROWS = 10, 2
VIDUR_N_JOBS = -1
VIDUR_OPERATORS = (
    "attn_pre_proj",
    "attn_post_proj",
    "mlp_up_proj",
    "mlp_down_proj",
    "mlp_act",
    "input_layernorm",
    "post_attention_layernorm",
    "attn_rope",
    "add",
    "attn_kv_cache_save",
    "attn_prefill",
    "attn_decode",
)
HELD_OUT_SHARE = 10


@dataclass(frozen=True)
class Outcome:
    """One operator, trained both ways."""

    operator: str
    n_train: int
    ours_s: float
    vidur_s: float
    ours_best: str
    vidur_best: dict[str, Any]
    errors: list[HeldOutError]

    @property
    def ratio(self) -> float:
        return self.vidur_s / self.ours_s


def vidur_error(measured: FloatArray, predicted: FloatArray) -> float:
    """Vidur's scorer: mean absolute percentage error; where the truth is 0, 100 unless the prediction is."""
    positive = measured != 0
    error = np.where(predicted == 0, 0.0, 100.0)
    error[positive] = np.abs((measured - predicted)[positive] / measured[positive]) * 100
    return float(error.mean())


def vidur_search(features: FloatArray, time_ms: FloatArray) -> GridSearchCV:
    few = len(time_ms) < VIDUR_FOLDS
    search = GridSearchCV(
        RandomForestRegressor(),
        VIDUR_GRID,
        scoring=make_scorer(vidur_error, greater_is_better=False),
        cv=VIDUR_FOLDS_IF_FEWER_ROWS if few else VIDUR_FOLDS,
        n_jobs=VIDUR_N_JOBS,
    )
    return search.fit(features, time_ms)


def held_out(table: OperatorTable, seed: int) -> Iterator[tuple[str, Mask]]:
    """Yield each test set: a tenth of the rows, and all rows of a tenth of each input's values."""
    rows = np.arange(len(table.time_ms), dtype=np.float64)
    yield "random rows", next(whole_value_folds(rows, HELD_OUT_SHARE, seed=seed))
    for axis in varying_axes(table.inputs):
        values = table.inputs[:, axis]
        yield (
            f"held-out {table.family.inputs[axis]}",
            next(whole_value_folds(values, HELD_OUT_SHARE, seed=seed + 1)),
        )


def compare(table: OperatorTable, seed: int) -> Outcome:
    tests = dict(held_out(table, seed))
    train = ~np.logical_or.reduce(list(tests.values()))
    inputs, time_ms = table.inputs[train], table.time_ms[train]

    start = time.perf_counter()
    ours = AutoRegressor(family=table.family.name).fit(inputs, time_ms)
    ours_s = time.perf_counter() - start

    start = time.perf_counter()
    vidur = vidur_search(table.family.vidur(inputs), time_ms)
    vidur_s = time.perf_counter() - start

    errors = [
        score_predictions(
            table.operator, name, split, measured_ms=table.time_ms[test], predicted_ms=predicted
        )
        for split, test in tests.items()
        for name, predicted in (
            ("ours", ours.predict(table.inputs[test])),
            ("vidur", vidur.predict(table.family.vidur(table.inputs[test]))),
        )
    ]
    return Outcome(
        table.operator, int(train.sum()), ours_s, vidur_s, ours.best_.name, vidur.best_params_, errors
    )


def warm_up() -> None:
    """Import and start what both need, so that neither is charged for it."""
    grid = np.arange(1.0, 41.0)[:, None]
    AutoRegressor().fit(grid, grid[:, 0])
    GridSearchCV(RandomForestRegressor(), {"n_estimators": [1]}, n_jobs=VIDUR_N_JOBS).fit(grid, grid[:, 0])


def thinned(table: OperatorTable, fraction: float, seed: int) -> OperatorTable:
    """Return a random share of a table's rows."""
    n_rows = max(1, round(fraction * len(table.time_ms)))
    rows = np.sort(np.random.default_rng(seed).permutation(len(table.time_ms))[:n_rows])
    return OperatorTable(table.operator, table.family, table.inputs[rows], table.time_ms[rows])


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    times = Table("operator", "rows", "ours s", "vidur s", "ratio", "ours chose", title="Training time")
    for o in outcomes:
        times.add_row(
            o.operator,
            f"{o.n_train:,}",
            f"{o.ours_s:.2f}",
            f"{o.vidur_s:.1f}",
            f"{o.ratio:.0f}x",
            o.ours_best,
        )
    ours_s, vidur_s = sum(o.ours_s for o in outcomes), sum(o.vidur_s for o in outcomes)
    times.add_section()
    times.add_row("all", "", f"{ours_s:.2f}", f"{vidur_s:.1f}", f"{vidur_s / ours_s:.0f}x", "")
    console.print(times)

    errors = Table("operator", "split", "ours", "vidur", "rounding", title="Held-out error %, median / mean")
    for o in outcomes:
        for ours, vidur in zip(o.errors[::2], o.errors[1::2], strict=True):
            errors.add_row(o.operator, ours.split, _pair(ours), _pair(vidur), _pair(ours, of="_rounding"))
    pooled = _pooled(outcomes)
    errors.add_section()
    errors.add_row("mean of all", "", *(f"{p['median']:.2f} / {p['mean']:.2f}" for p in pooled.values()), "")
    console.print(errors)


def _pair(error: HeldOutError, of: str = "") -> str:
    return f"{100 * getattr(error, 'median' + of):.2f} / {100 * getattr(error, 'mean' + of):.2f}"


def _pooled(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Return both errors in percent, averaged over operators and splits."""
    errors = [error for o in outcomes for error in o.errors]
    return {
        who: {
            statistic: 100 * float(np.mean([getattr(e, statistic) for e in errors if e.regressor == who]))
            for statistic in ("median", "mean")
        }
        for who in ("ours", "vidur")
    }


def record(outcomes: Sequence[Outcome], arguments: argparse.Namespace) -> str:
    ours_s, vidur_s = sum(o.ours_s for o in outcomes), sum(o.vidur_s for o in outcomes)
    return json.dumps(
        {
            "profile": arguments.profile.name,
            "fraction": arguments.fraction,
            "seed": arguments.seed,
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in ("kvpred", "numpy", "scikit-learn", "lightgbm")},
            "total": {"ours_s": ours_s, "vidur_s": vidur_s, "ratio": vidur_s / ours_s},
            "mean_error_percent": _pooled(outcomes),
            "operators": [asdict(o) | {"ratio": o.ratio} for o in outcomes],
        },
        indent=1,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("profile", type=Path, help="folder with attention.csv and mlp.csv")
    for name in ("device", "model", "method"):
        parser.add_argument(f"--{name}", help="where the folder does not say it")
    parser.add_argument(
        "--operators", default=",".join(VIDUR_OPERATORS), help="comma-separated; default: all of Vidur's"
    )
    parser.add_argument("--fraction", type=float, default=1.0, help="share of each operator's rows to use")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of held-out rows")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/operators.json"))
    arguments = parser.parse_args()
    if not 0 < arguments.fraction <= 1:
        parser.error("--fraction must be above 0 and at most 1")
    return arguments


def main() -> None:
    arguments, console = parse(), Console()
    try:
        profile = read_profile(
            arguments.profile, device=arguments.device, model=arguments.model, method=arguments.method
        )
        tables = {table.operator: table for table in operator_tables(profile)}
    except KvpredError as error:
        raise SystemExit(str(error)) from None
    wanted = arguments.operators.split(",")
    unknown = [operator for operator in wanted if operator not in tables]
    if unknown:
        raise SystemExit(f"not in the profile: {', '.join(unknown)}; it has {', '.join(tables)}")
    timed = [operator for operator in wanted if tables[operator].time_ms.any()]
    if not timed:
        raise SystemExit(f"always 0 ms: {', '.join(wanted)}; name operators that take time")
    warm_up()
    outcomes = []
    for operator in timed:
        outcomes.append(
            compare(thinned(tables[operator], arguments.fraction, arguments.seed), arguments.seed)
        )
        last = outcomes[-1]
        console.print(f"{operator}: ours {last.ours_s:.2f} s, vidur {last.vidur_s:.1f} s ({last.ratio:.0f}x)")
        write_text(arguments.out, record(outcomes, arguments) + "\n")
    show(outcomes, console)
    console.print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
