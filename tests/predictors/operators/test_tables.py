from __future__ import annotations

import pytest

from kvpred.data.profiles import Profile, time_column
from kvpred.errors import NotCoveredError
from kvpred.predictors.operators import DECODE, PREFILL, TOKENS, operator_tables
from kvpred.predictors.operators.tables import stage_operator
from tests import in_place
from tests.predictors.operators.conftest import DECODE_SITES


def test_each_operator_gets_the_rows_and_inputs_of_its_stage(small_profile: Profile) -> None:
    tables = {table.operator: table for table in operator_tables(small_profile)}
    assert tables["attn_decode"].family is DECODE
    assert tables["attn_decode"].inputs.tolist() == DECODE_SITES.tolist()
    assert tables["attn_prefill"].family is PREFILL
    assert tables["attn_prefill"].inputs.tolist() == [[1, 512, 64]]
    assert tables["mlp_act"].family is TOKENS


def test_attention_tables_count_tokens_of_both_stages(small_profile: Profile) -> None:
    tables = {table.operator: table for table in operator_tables(small_profile)}
    tokens = tables["attn_input_reshape"].inputs[:, 0]
    assert tokens[0] == 1
    assert tokens[len(DECODE_SITES) - 1] == 32
    assert tokens[-1] == 512


def test_attention_timed_in_place_has_a_table_for_each_operator_and_stage() -> None:
    profile = in_place.make_profile()
    tables = {table.operator: table for table in operator_tables(profile)}
    for operator in ("attn_input_reshape", "attn_kv_cache_save", "attn_output_reshape"):
        assert operator not in tables
        assert tables[stage_operator(operator, "prefill")].family is PREFILL
        assert tables[stage_operator(operator, "decode")].family is DECODE
    assert tables["attn_decode"].inputs.tolist() == [list(site) for site in in_place.DECODE]
    prefill = tables["attn_kv_cache_save_prefill"].inputs
    assert prefill.tolist() == [[bsz, length, 0] for bsz, length in in_place.PREFILL]


def test_decode_lengths_timed_in_place_are_what_the_method_attends_to() -> None:
    tables = {table.operator: table for table in operator_tables(in_place.make_profile("h2o"))}
    assert tables["attn_decode"].inputs[:5, 1].tolist() == [128, 512, 512, 512, 512]
    assert tables["attn_prefill"].inputs[:5, 1].tolist() == [128, 256, 512, 1024, 2048]


def test_what_was_timed_across_a_change_of_work_is_left_out_of_fits() -> None:
    profile = in_place.make_profile(noise=0.02)
    seam = profile.attention["kv_cache_size"] == 512
    profile.attention[time_column("attn_decode", "std")][seam] = (
        0.5 * profile.attention[time_column("attn_decode")][seam]
    )
    lengths = [
        {table.operator: table for table in operator_tables(profile, steady=steady)}["attn_decode"].inputs[
            :, 1
        ]
        for steady in (False, True)
    ]
    assert set(lengths[0]) - set(lengths[1]) == {512}


def test_the_lm_head_is_profiled_where_all_tokens_pass_it() -> None:
    tables = {table.operator: table for table in operator_tables(in_place.make_profile())}
    assert tables["lm_head"].inputs[:, 0].tolist() == [1, 2, 4, 8]
    assert tables["mlp_act"].inputs[:, 0].tolist() == [1, 2, 4, 8, 128, 256, 512, 1024, 2048]


def test_a_profile_without_the_wanted_degree_covers_nothing(small_profile: Profile) -> None:
    with pytest.raises(NotCoveredError, match="a-model on a-device has no operator times at tp=2"):
        operator_tables(small_profile, tp=2)


def test_a_profile_may_lack_a_table(small_profile: Profile) -> None:
    attention_only = Profile(
        model="a-model", device="a-device", method="fp16", attention=small_profile.attention, mlp={}
    )
    assert "mlp_act" not in {table.operator for table in operator_tables(attention_only)}


def test_the_published_profile_has_fifteen_operators(fp16_profile: Profile) -> None:
    tables = {table.operator: table for table in operator_tables(fp16_profile)}
    assert len(tables) == 15
    assert len(tables["attn_decode"].time_ms) + len(tables["attn_prefill"].time_ms) == 14_653
    assert len(tables["mlp_up_proj"].time_ms) == 261
