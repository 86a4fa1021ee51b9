from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.errors import UsageError
from kvpred.methods import list_methods
from kvpred.predictors.predictor import Predictor
from kvpred.workflows.grids import break_even_grid
from kvpred.workflows.sweep_text import Sweep, parse_sweep
from kvpred.workflows.sweeps import run_sweep

USUAL = {
    "method": "fp16", "model": "llama-2-7b", "device": "a6000", "engine": "lmdeploy", "tp": 1,
    "output_len": 256,
}  # fmt: skip


def parse(text: str) -> Sweep:
    return parse_sweep(text, usual=USUAL)


def test_ranges_count_both_ends() -> None:
    sweep = parse("bsz=1:8|64,prompt_len=512:2048:512,output_len=1:100:x10,tp=1|2")
    assert sweep.numbers == {
        "bsz": (1, 2, 3, 4, 5, 6, 7, 8, 64),
        "prompt_len": (512, 1024, 1536, 2048),
        "output_len": (1, 10, 100),
        "tp": (1, 2),
    }
    assert sweep.cells == 9 * 4 * 3 * 2


def test_commas_of_parameters_belong_to_their_method() -> None:
    sweep = parse("method=kivi:bits=2,group_size=32|h2o:heavy=10,recent=90,bsz=1,prompt_len=2")
    assert sweep.names["method"] == ("kivi:bits=2,group_size=32", "h2o:heavy=10,recent=90")
    assert parse("bsz=1,prompt_len=2,method=all").names["method"] == tuple(m.name for m in list_methods())
    assert parse("bsz=1,prompt-len=2,method=fp16|fp16").names["method"] == ("fp16",)


@given(st.integers(1, 1000), st.integers(0, 12), st.sampled_from([2, 3, 10]))
def test_factors_reach_the_end(low: int, powers: int, factor: int) -> None:
    high = min(low * factor**powers, 10**5)
    (*_, last) = found = parse(f"bsz={low}:{high}:x{factor},prompt_len=2").numbers["bsz"]
    assert found[0] == low
    assert last <= high < last * factor


def test_rows_come_place_by_place_and_request_by_request(packaged: Predictor) -> None:
    swept = run_sweep(parse("method=fp16|h2o,bsz=1|2,prompt_len=256|512"), packaged)
    rows = list(zip(*(swept.columns[key] for key in ("method", "bsz", "prompt_len")), strict=True))
    assert rows == [(m, b, p) for m in ("fp16", "h2o") for b in (1, 2) for p in (256, 512)]
    assert (len(swept), swept.reasons, swept.dropped, swept.unfit) == (8, {}, {}, {})


def test_break_even_axes_are_even_in_octaves_and_end_where_asked() -> None:
    grid = break_even_grid("bsz", bsz="1:64", prompt_len="128:2048", output_len=None, cells=5, context=4096)
    assert grid.bsz.tolist() == [1, 3, 8, 23, 64]
    assert grid.prompt_len.tolist() == [128, 256, 512, 1024, 2048]
    assert grid.output_len.tolist() == [256]


@pytest.mark.parametrize("context", [2, 64, 512, 2048, 131_072])
@pytest.mark.parametrize("axis", ["bsz", "output_len"])
def test_usual_axes_stay_within_the_context(axis: str, context: int) -> None:
    grid = break_even_grid(axis, bsz=None, prompt_len=None, output_len=None, cells=40, context=context)
    assert all(np.all(np.diff(values) > 0) for values in (grid.bsz, grid.prompt_len, grid.output_len))
    if context >= 512:
        assert grid.prompt_len[-1] + grid.output_len[-1] <= context
    assert grid.prompt_len[-1] <= 16_384


def test_a_range_that_goes_down_is_refused() -> None:
    with pytest.raises(UsageError, match="'64:1'"):
        break_even_grid("bsz", bsz="64:1", prompt_len=None, output_len=None, cells=5, context=4096)
