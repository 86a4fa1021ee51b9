from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kvpred.data.profiles import Profile
from kvpred.errors import DataError, NotCoveredError, UsageError
from kvpred.predictors.operators import OperatorSet, fit_operators
from tests.predictors.operators.conftest import decode_law


@pytest.fixture(scope="module")
def operators(small_profile: Profile) -> OperatorSet:
    return fit_operators(small_profile)


def test_decode_attention_is_predicted_on_a_grid(operators: OperatorSet) -> None:
    bsz, kv_len = np.array([[1], [8], [64]]), np.array([100, 1000, 10_000])
    predicted = operators.predict("attn_decode", batch_size=bsz, kv_len=kv_len)
    assert predicted.shape == (3, 3)
    assert predicted == pytest.approx(decode_law(bsz, kv_len), rel=0.02)


def test_a_scalar_request_gives_a_scalar(operators: OperatorSet) -> None:
    assert operators.predict("mlp_act", num_tokens=1000) == pytest.approx(1.0)
    assert operators.predict("mlp_act", num_tokens=1000).shape == ()


def test_inputs_that_an_operator_does_not_depend_on_are_ignored(operators: OperatorSet) -> None:
    request = {"num_tokens": 512, "batch_size": 1, "kv_len": 64, "prefill_chunk_size": 512}
    times = {name: operators.predict(name, **request).item() for name in operators.models}
    assert times["attn_input_reshape"] == 0
    assert times["attn_prefill"] == pytest.approx(0.5)
    assert times["mlp_act"] == pytest.approx(0.512)


def test_an_operator_that_was_not_profiled_is_named(operators: OperatorSet) -> None:
    with pytest.raises(NotCoveredError, match="'lm_head' was not profiled; there are attn_input_reshape"):
        operators.predict("lm_head", num_tokens=1)


def test_an_input_that_is_needed_is_named(operators: OperatorSet) -> None:
    with pytest.raises(UsageError, match="give kv_len"):
        operators.predict("attn_decode", batch_size=1)


def test_the_number_of_threads_does_not_matter(small_profile: Profile, operators: OperatorSet) -> None:
    alone = fit_operators(small_profile, n_jobs=1)
    assert list(alone.models) == list(operators.models)
    tokens = np.arange(1, 5000)
    assert (
        alone.predict("mlp_act", num_tokens=tokens).tolist()
        == operators.predict("mlp_act", num_tokens=tokens).tolist()
    )


@pytest.mark.parametrize("kind", ["physics", "hybrid", "auto"])
def test_a_saved_set_predicts_the_same(kind: str, small_profile: Profile, tmp_path: Path) -> None:
    operators = fit_operators(small_profile, kind)
    operators.to_state(tmp_path / "set")
    again = OperatorSet.from_state(tmp_path / "set")
    request = {"num_tokens": 777, "batch_size": 5, "kv_len": 4321, "prefill_chunk_size": 99}
    assert again.tp == 1
    assert {name: again.predict(name, **request).item() for name in again.models} == {
        name: operators.predict(name, **request).item() for name in operators.models
    }


@pytest.mark.parametrize(
    "index",
    [
        "",
        "[]",
        '{"tp": 1}',
        '{"tp": "one", "operators": {}}',
        '{"tp": 1, "operators": {"attn_decode": 7}}',
    ],
)
def test_a_damaged_set_is_refused(index: str, operators: OperatorSet, tmp_path: Path) -> None:
    operators.to_state(tmp_path / "set")
    (tmp_path / "set" / "operators.json").write_text(index)
    with pytest.raises(DataError, match=r"operators\.json"):
        OperatorSet.from_state(tmp_path / "set")


def test_a_set_never_leads_outside_its_folder(operators: OperatorSet, tmp_path: Path) -> None:
    operators.to_state(tmp_path / "set")
    operators.models["mlp_act"].regressor.to_state(tmp_path / "elsewhere")
    (tmp_path / "set" / "operators.json").write_text(
        json.dumps({"tp": 1, "operators": {"mlp_act": "../elsewhere"}})
    )
    with pytest.raises(DataError, match=r"set/elsewhere/state\.json.*no such file"):
        OperatorSet.from_state(tmp_path / "set")


@pytest.mark.slow
def test_all_operators_of_the_published_profile_are_fitted(fp16_profile: Profile) -> None:
    operators = fit_operators(fp16_profile)
    assert operators.predict("attn_kv_cache_save", num_tokens=100) == 0
    assert operators.predict("attn_decode", batch_size=32, kv_len=1024) == pytest.approx(0.915, rel=0.05)
