"""Grids by name and from files, and the order in which a sweep takes their sites."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.errors import DataError, UsageError
from kvpred.profiling.grid import GRIDS, Grid, Site, StageGrid, get_grid, spread

octaves = st.lists(st.sampled_from([2**n for n in range(12)]), min_size=1, max_size=5, unique=True)
stage_grids = st.none() | st.builds(StageGrid, bsz=octaves, length=octaves)


@pytest.mark.parametrize("name", GRIDS)
def test_every_named_grid_measures_both_stages(name: str) -> None:
    assert {site.stage for site in get_grid(name).sites()} == {"prefill", "decode"}


def test_larger_grids_hold_more_sites() -> None:
    assert len(GRIDS["smoke"].sites()) < len(GRIDS["default"].sites()) < len(GRIDS["full"].sites())


def test_a_grid_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("repeats = 3\n[decode]\nbsz = [1, 8]\nlength = [512, 4096]\nmax_tokens = 4096\n")
    grid = get_grid(str(path))
    assert (grid.repeats, grid.prefill) == (3, None)
    assert grid.sites() == [Site("decode", 1, 512), Site("decode", 1, 4096), Site("decode", 8, 512)]


def test_a_site_named_twice_is_measured_once() -> None:
    assert len(StageGrid(bsz=[1, 1], length=[64, 128, 64]).sites("decode")) == 2


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["empty"]),
        ("[decode", ["not TOML"]),
        ("repeats = 4\n", ["no site"]),
        ("[decode]\nbsz = [1]\nlength = [64]\nmax_tokens = 8\n", ["no site"]),
        ("[decode]\nbsz = [1]\n", ["'decode.length'", "required"]),
        ("[decode]\nbsz = []\nlength = [64]\n", ["'decode.bsz'", "at least 1 item"]),
        ("[decode]\nbsz = [0]\nlength = [64]\n", ["'decode'", "bsz: 0 must be from 1 to 4,096"]),
        ("[decode]\nbsz = [1]\nlength = [-5]\n", ["'decode'", "length: -5"]),
        ("[prefill]\nbsz = [1]\nlength = [1e3]\n", ["'prefill.length.0'", "'1000.0'", "integer"]),
        ("[prefill]\nbsz = ['two']\nlength = [64]\n", ["'prefill.bsz.0'", "'two'", "integer"]),
        ("[prefill]\nbsz = [true]\nlength = [64]\n", ["'prefill.bsz.0'", "integer"]),
        ("[prefill]\nbsz = 1\nlength = [64]\n", ["'prefill.bsz'", "'1'", "list"]),
        ("[decoding]\nbsz = [1]\nlength = [64]\n", ["'decoding'", "not permitted"]),
        ("[decode]\nbsz = [1]\nlength = [64]\nbatch = 2\n", ["'decode.batch'", "not permitted"]),
        ("repeats = 1\n[decode]\nbsz = [1]\nlength = [64]\n", ["'repeats'", "'1'", "greater than"]),
        ("steps = 'many'\n[decode]\nbsz = [1]\nlength = [64]\n", ["'steps'", "'many'", "integer"]),
    ],
)
def test_a_bad_grid_file_is_refused_with_file_field_and_value(
    tmp_path: Path, text: str, names: list[str]
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        get_grid(str(path))
    assert [name for name in (str(path), *names) if name not in str(caught.value)] == []


def test_a_missing_file_and_an_unknown_name_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        get_grid(str(tmp_path / "nowhere.toml"))
    with pytest.raises(UsageError, match="'smok' is not known: use smoke, default, full or a TOML file"):
        get_grid("smok")


def test_a_prefill_passes_all_its_tokens_and_a_decode_step_one_each() -> None:
    assert Site("prefill", 4, 512).num_tokens == 2048
    assert Site("decode", 4, 512).num_tokens == 4


@given(prefill=stage_grids, decode=stage_grids)
def test_spreading_only_changes_the_order(prefill: StageGrid | None, decode: StageGrid | None) -> None:
    if prefill is None and decode is None:
        return
    sites = Grid(prefill=prefill, decode=decode).sites()
    assert sorted(map(str, spread(sites))) == sorted(map(str, sites))


@given(prefill=stage_grids, decode=stage_grids)
def test_stages_take_turns_while_both_have_sites(prefill: StageGrid | None, decode: StageGrid | None) -> None:
    if prefill is None or decode is None:
        return
    n_prefill, n_decode = len(prefill.sites("prefill")), len(decode.sites("decode"))
    stages = [site.stage for site in spread(Grid(prefill=prefill, decode=decode).sites())]
    in_turns = 2 * min(n_prefill, n_decode)
    assert stages[:in_turns] == ["prefill", "decode"] * (in_turns // 2)


@given(bsz=octaves, length=octaves)
def test_the_largest_site_comes_first_and_the_smallest_next(bsz: list[int], length: list[int]) -> None:
    order = spread(StageGrid(bsz=bsz, length=length).sites("decode"))
    assert (order[0].bsz, order[0].length) == (max(bsz), max(length))
    if len(order) > 1:
        assert (order[1].bsz, order[1].length) == (min(bsz), min(length))


def test_a_square_grids_corners_come_first() -> None:
    order = spread(StageGrid(bsz=[1, 2, 4, 8], length=[512, 1024, 2048, 4096]).sites("decode"))
    assert {(site.bsz, site.length) for site in order[:4]} == set(product((1, 8), (512, 4096)))


@given(bsz=octaves, length=octaves)
def test_gaps_only_shrink_as_more_sites_are_taken(bsz: list[int], length: list[int]) -> None:
    order = np.log2(
        [(site.bsz, site.length) for site in spread(StageGrid(bsz=bsz, length=length).sites("decode"))]
    )
    gaps = [np.linalg.norm(order[:i] - order[i], axis=1).min() for i in range(1, len(order))]
    assert gaps == sorted(gaps, reverse=True)
