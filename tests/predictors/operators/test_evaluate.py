from __future__ import annotations

import numpy as np
import pytest

from kvpred.data.profiles import Profile
from kvpred.predictors.operators import operator_tables
from kvpred.predictors.operators.evaluate import evaluate_operators, score_predictions, splits


def test_errors_are_relative_and_leave_rows_of_no_time_out() -> None:
    error = score_predictions(
        "add",
        "physics",
        "random rows",
        measured_ms=np.array([1.0, 2.0, 4.0, 0.0]),
        predicted_ms=np.array([1.1, 2.0, 3.0, 5.0]),
    )
    assert error.n_rows == 3
    assert error.median == pytest.approx(0.1)
    assert error.mean == pytest.approx(0.35 / 3)


def test_the_rounding_floor_is_what_a_perfect_prediction_scores() -> None:
    truth = np.random.default_rng(0).uniform(0.002, 0.01, 100_000)
    error = score_predictions("add", "truth", "all", measured_ms=np.round(truth, 3), predicted_ms=truth)
    assert error.mean == pytest.approx(error.mean_rounding, rel=0.02)


def test_every_input_with_several_values_is_held_out_and_gone_beyond(small_profile: Profile) -> None:
    tables = {table.operator: table for table in operator_tables(small_profile)}
    assert [name for name, _ in splits(tables["attn_decode"])] == [
        "random rows",
        "held-out batch_size",
        "beyond batch_size",
        "held-out kv_len",
        "beyond kv_len",
    ]


def test_beyond_trains_up_to_half_of_the_largest_value(small_profile: Profile) -> None:
    table = next(t for t in operator_tables(small_profile) if t.operator == "attn_decode")
    [(train, test)] = dict(splits(table))["beyond kv_len"]
    assert table.inputs[train, 1].max() == 1024
    assert table.inputs[test, 1].min() == 1152


def test_an_exact_law_has_no_error_on_any_split(small_profile: Profile) -> None:
    errors = [
        e for e in evaluate_operators(small_profile, regressors=["physics"]) if "attn_p" not in e.operator
    ]
    assert {error.operator for error in errors} == {"attn_decode", "mlp_act"}
    assert max(error.mean for error in errors) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "split", "percent"),
    [
        ("attn_decode", "random rows", 0.36),
        ("attn_decode", "held-out batch_size", 0.45),
        ("attn_decode", "held-out kv_len", 0.45),
        ("attn_prefill", "random rows", 1.0),
        ("attn_prefill", "held-out prefill_chunk_size", 1.2),
        ("attn_prefill", "held-out kv_len", 1.0),
        ("mlp_up_proj", "held-out num_tokens", 1.1),
        ("attn_pre_proj", "held-out num_tokens", 1.1),
    ],
)
def test_hybrid_predicts_the_published_profile(
    operator: str, split: str, percent: float, hybrid_errors: dict[tuple[str, str], float]
) -> None:
    assert 100 * hybrid_errors[operator, split] <= percent


@pytest.fixture(scope="module")
def hybrid_errors(fp16_profile: Profile) -> dict[tuple[str, str], float]:
    errors = evaluate_operators(fp16_profile, regressors=["hybrid"])
    return {(error.operator, error.split): error.median for error in errors}
