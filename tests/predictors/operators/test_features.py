from __future__ import annotations

import numpy as np
import pytest

from kvpred.errors import UsageError
from kvpred.predictors.operators import DECODE, PREFILL, TOKENS
from kvpred.predictors.operators.features import FAMILIES, Family, family_of

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)


@pytest.mark.parametrize(
    ("operator", "family"),
    [
        ("attn_decode", DECODE),
        ("attn_prefill", PREFILL),
        ("kv_quantise_decode", DECODE),
        ("mlp_up_proj", TOKENS),
        ("emb", TOKENS),
    ],
)
def test_the_end_of_an_operators_name_tells_its_family(operator: str, family: Family) -> None:
    assert family_of(operator) is family


def test_decode_terms_count_launch_queries_and_kv_read() -> None:
    inputs = np.array([[4.0, 100.0]])
    terms = DECODE.terms(inputs, inputs[0])
    assert {name: terms[name].item() for name in ("1", "bsz", "kv_len", "bsz*kv_len")} == {
        "1": 1.0,
        "bsz": 4.0,
        "kv_len": 100.0,
        "bsz*kv_len": 400.0,
    }


def test_prefill_terms_round_the_chunk_up_to_whole_tiles_for_each_sequence() -> None:
    inputs = np.array([[2.0, 130.0, 10.0]])
    terms = PREFILL.terms(inputs, inputs[0])
    assert terms["ceil(chunk,128)"].item() == 2 * 256
    assert terms["ceil(chunk,64)*kv_len"].item() == 2 * 192 * 10
    assert terms["chunk^2"].item() == 2 * 130**2


def test_no_knee_lies_beyond_half_of_the_training_range() -> None:
    names = TOKENS.terms(np.array([[50.0]]), np.array([200.0])).keys()
    assert "min(tokens,64)" in names
    assert "min(tokens,128)" not in names


@every_family
def test_terms_are_never_negative_and_never_fall_with_any_input(family: Family) -> None:
    base = np.random.default_rng(0).integers(1, 5000, (200, len(family.inputs))).astype(float)
    for axis in range(len(family.inputs)):
        more = base.copy()
        more[:, axis] *= 1.5
        reach = base.max(axis=0)
        below, above = family.terms(base, reach), family.terms(more, reach)
        assert all((below[name] >= 0).all() and (above[name] >= below[name]).all() for name in below)


def test_prefill_features_say_how_full_the_last_tiles_are() -> None:
    assert PREFILL.learnt(np.array([[1.0, 130.0, 300.0]])).tolist() == [[1, 130, 300, 2, 44]]


def test_vidurs_prefill_features_are_kv_length_and_chunk() -> None:
    assert PREFILL.vidur(np.array([[1.0, 130.0, 300.0]])).tolist() == [[300, 130]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([[1.0]], r"expected one column each for batch_size, kv_len"),
        ([1.0, 2.0], r"shape \(2,\)"),
        ([[1.0, 5.0], [1.0, -5.0]], r"row 1: .* not negative"),
        ([[1.0, np.nan]], r"row 0: .* finite"),
    ],
)
def test_impossible_inputs_are_refused(inputs: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DECODE.check(inputs)  # type: ignore[arg-type]


def test_named_inputs_broadcast_and_remember_their_shape() -> None:
    rows, shape = DECODE.stack({"batch_size": [[1], [2]], "kv_len": [10, 20, 30]})
    assert shape == (2, 3)
    assert rows[4].tolist() == [2, 20]


def test_a_missing_input_is_named() -> None:
    with pytest.raises(UsageError, match="give kv_len"):
        DECODE.stack({"batch_size": 1, "kv_len": None})


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(UsageError, match=r"batch_size \(2,\), kv_len \(3,\)"):
        DECODE.stack({"batch_size": [1, 2], "kv_len": [1, 2, 3]})
