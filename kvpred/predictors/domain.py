"""Where the measurements reach: the convex range of the sites, and how far outside it a query lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Domain:
    """The convex hull of measured sites in (log2 bsz, log2 length).

    Parameters
    ----------
    corners : array, shape (n_corners, 2)
        The hull's corners, counter-clockwise; one or two where the sites span no area.
    """

    corners: Array

    @classmethod
    def of(cls, *, bsz: ArrayLike, length: ArrayLike) -> Domain:
        """Build the hull of sites, arrays of shape (n_sites,)."""
        points = np.unique(
            np.log2(np.stack([np.asarray(bsz, float), np.asarray(length, float)], axis=1)), axis=0
        )
        return cls(_hull(points))

    def contains(self, *, bsz: ArrayLike, length: ArrayLike) -> NDArray[np.bool_]:
        """Tell for each query whether it lies inside the hull or on its edge."""
        x, y = np.broadcast_arrays(np.log2(np.asarray(bsz, float)), np.log2(np.asarray(length, float)))
        left, low = self.corners.min(axis=0) - _ROUNDING
        right, high = self.corners.max(axis=0) + _ROUNDING
        inside = np.asarray((left <= x) & (x <= right) & (low <= y) & (y <= high))
        for (x0, y0), (x1, y1) in self._edges():
            inside &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= -_ROUNDING
        return inside

    def octaves_outside(self, *, bsz: ArrayLike, length: ArrayLike) -> Array:
        """Return how many doublings away the nearest point of the hull is, both axes added up."""
        x, y = np.broadcast_arrays(np.asarray(bsz, float), np.asarray(length, float))
        outside = ~self.contains(bsz=x, length=y)
        query = np.log2(np.stack([x[outside], y[outside]], axis=-1))
        octaves = np.zeros(x.shape)
        octaves[outside] = np.min([_octaves_to_edge(query, *edge) for edge in self._edges()], axis=0)
        return octaves

    def _edges(self) -> list[tuple[Array, Array]]:
        """Return the hull's edges, counter-clockwise; a single site is an edge from itself to itself."""
        return list(zip(self.corners, np.roll(self.corners, -1, axis=0), strict=True))


def _hull(points: Array) -> Array:
    """Return the convex hull by Andrew's monotone chain (1979); `points` are sorted and distinct."""

    def chain(ordered: Array) -> list[Array]:
        corners: list[Array] = []
        for point in ordered:
            while len(corners) > 1 and _turn(corners[-2], corners[-1], point) <= 0:
                corners.pop()
            corners.append(point)
        return corners[:-1]

    return np.array(chain(points) + chain(points[::-1])) if len(points) > 2 else points


def _octaves_to_edge(query: Array, start: Array, end: Array) -> Array:
    """Return the distance of queries, shape (n, 2), to an edge, the differences along both axes added up.

    Along the edge this distance is piecewise linear and convex, and bends where one of the differences is
    zero: the nearest point is one of these two, or the end of the edge next to it.
    """
    along = end - start
    steps = [(query[:, [axis]] - start[axis]) / along[axis] for axis in np.flatnonzero(along)]
    nearest = [start + np.clip(step, 0, 1) * along for step in steps] or [start]
    return np.asarray(np.min([np.abs(query - point).sum(axis=1) for point in nearest], axis=0))


def _turn(a: Array, b: Array, c: Array) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
