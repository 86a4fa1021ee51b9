from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpred.predictors.domain import Domain

GRID = Domain.of(bsz=[1, 1, 8, 8, 2, 4], length=[256, 4096, 256, 4096, 512, 1024])
# Long prompts ran in small batches only, as where memory runs out.
TRIANGLE = Domain.of(bsz=[1, 1, 16], length=[256, 4096, 256])

sites = st.lists(st.tuples(st.integers(1, 64), st.integers(1, 10**5)), min_size=1, max_size=12)


@given(sites)
def test_every_site_is_inside(points: list[tuple[int, int]]) -> None:
    bsz, length = np.array(points).T
    domain = Domain.of(bsz=bsz, length=length)
    assert domain.contains(bsz=bsz, length=length).all()
    assert not domain.octaves_outside(bsz=bsz, length=length).any()


@given(sites, st.data())
def test_what_lies_between_two_sites_is_inside(points: list[tuple[int, int]], data: st.DataObject) -> None:
    (b0, l0), (b1, l1) = (data.draw(st.sampled_from(points)) for _ in range(2))
    part = data.draw(st.floats(0, 1))
    bsz, length = np.array(points).T
    between = {"bsz": b0 ** (1 - part) * b1**part, "length": l0 ** (1 - part) * l1**part}
    assert Domain.of(bsz=bsz, length=length).contains(**between)


@given(sites, st.tuples(st.integers(1, 1000), st.integers(1, 10**6)))
def test_distance_is_zero_just_inside(points: list[tuple[int, int]], query: tuple[int, int]) -> None:
    bsz, length = np.array(points).T
    domain = Domain.of(bsz=bsz, length=length)
    outside = domain.octaves_outside(bsz=query[0], length=query[1])
    assert (outside == 0) == domain.contains(bsz=query[0], length=query[1])


@given(sites, st.tuples(st.integers(1, 1000), st.integers(1, 10**6)))
def test_no_site_is_nearer_than_the_hull(points: list[tuple[int, int]], query: tuple[int, int]) -> None:
    bsz, length = np.array(points).T
    to_sites = np.abs(np.log2(bsz / query[0])) + np.abs(np.log2(length / query[1]))
    found = Domain.of(bsz=bsz, length=length).octaves_outside(bsz=query[0], length=query[1])
    assert found <= to_sites.min() + 1e-9


def test_only_corners_are_kept() -> None:
    assert sorted(map(tuple, 2**GRID.corners)) == [(1, 256), (1, 4096), (8, 256), (8, 4096)]


@pytest.mark.parametrize(("bsz", "length"), [(9, 1024), (0.9, 1024), (4, 4097), (4, 255), (16, 8192)])
def test_what_was_not_measured_is_outside(bsz: float, length: float) -> None:
    assert not GRID.contains(bsz=bsz, length=length)


@pytest.mark.parametrize(
    ("bsz", "length", "octaves"),
    [(16, 1024, 1), (32, 1024, 2), (4, 8192, 1), (4, 64, 2), (16, 16384, 3), (0.5, 128, 2), (4, 1024, 0)],
)
def test_doublings_outside_are_counted_along_both_axes(bsz: float, length: float, octaves: float) -> None:
    assert GRID.octaves_outside(bsz=bsz, length=length) == pytest.approx(octaves)


def test_a_corner_that_was_never_measured_is_outside_though_each_axis_covers_it() -> None:
    assert not TRIANGLE.contains(bsz=16, length=4096)
    assert TRIANGLE.octaves_outside(bsz=16, length=4096) == pytest.approx(4)
    assert TRIANGLE.contains(bsz=4, length=1024)


def test_a_single_site_contains_itself_alone() -> None:
    domain = Domain.of(bsz=[4], length=[1024])
    assert domain.contains(bsz=[4, 4, 5], length=[1024, 1025, 1024]).tolist() == [True, False, False]
    assert domain.octaves_outside(bsz=8, length=512) == pytest.approx(2)


def test_sites_on_a_line_contain_the_line_alone() -> None:
    domain = Domain.of(bsz=[1, 2, 4, 8], length=[128, 256, 512, 1024])
    assert len(domain.corners) == 2
    assert domain.contains(bsz=[2, 4, 4], length=[256, 512, 256]).tolist() == [True, True, False]
    assert domain.octaves_outside(bsz=4, length=256) == pytest.approx(1)


def test_one_batch_size_contains_its_lengths() -> None:
    domain = Domain.of(bsz=[1, 1, 1], length=[128, 300, 1024])
    assert domain.contains(bsz=[1, 2], length=[700, 700]).tolist() == [True, False]


def test_queries_broadcast() -> None:
    assert GRID.contains(bsz=[[1], [16]], length=[256, 512, 9000]).tolist() == [
        [True, True, False],
        [False, False, False],
    ]
