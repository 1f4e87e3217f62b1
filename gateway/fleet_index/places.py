"""Circles, boxes and polygons on the earth, as numbers that SQL compares."""

from __future__ import annotations

from collections.abc import Sequence
from math import asin, cos, degrees, pi, radians, sin
from typing import NamedTuple

EARTH_RADIUS = 6_371_008.8  # metres, the mean radius
HALF_EARTH = pi * EARTH_RADIUS
# Degrees by which the box around a circle is larger than computed.
_MARGIN = 1e-6

Point = tuple[float, float]
Edge = tuple[float, float, float, float]


class Box(NamedTuple):
    """Latitudes from south to north, and one or two ranges of longitudes; all in degrees, ends included."""

    south: float
    north: float
    longitudes: tuple[tuple[float, float], ...]


class Polygon(NamedTuple):
    """Edges as (latitude, longitude, latitude, longitude), and the box around them.

    The longitudes start at `west` and may exceed 180 degrees: 360 is to be added to a longitude below `west`.
    """

    edges: tuple[Edge, ...]
    west: float
    box: Box


def box_of(south: float, west: float, north: float, east: float) -> Box:
    """A box; across the antimeridian if `west` is greater than `east`."""
    ranges = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    # Indexed longitudes are less than 180.
    if any(end == 180 for _, end in ranges) and not any(start == -180 for start, _ in ranges):
        ranges.append((-180.0, -180.0))
    return Box(south, north, tuple(ranges))


def chord_squared(meters: float) -> float:
    """The square of the straight line between two points of the unit sphere at a distance along the earth's surface."""
    half = sin(meters / EARTH_RADIUS / 2)
    return 4 * half * half


def box_around(lat: float, lon: float, meters: float) -> Box:
    """A box that contains a circle."""
    angle = meters / EARTH_RADIUS
    height = degrees(angle) + _MARGIN
    south, north = lat - height, lat + height
    if south <= -90 or north >= 90:
        return Box(max(south, -90.0), min(north, 90.0), ((-180.0, 180.0),))
    width = degrees(asin(min(1.0, sin(angle) / cos(radians(lat))))) + _MARGIN
    west, east = lon - width, lon + width
    return box_of(south, west + 360 if west < -180 else west, north, east - 360 if east > 180 else east)


def polygon_of(points: Sequence[Point]) -> Polygon | None:
    """A polygon whose edges go the shorter way round the earth; None if it encloses a pole."""
    lats = [lat for lat, _ in points]
    lons = [points[0][1]]
    for _, lon in [*points[1:], points[0]]:
        lons.append(_nearest(lon, lons[-1]))
    if lons.pop() != lons[0] or max(lons) - min(lons) >= 360:
        return None
    turn = 360.0 if min(lons) < -180 else -360.0 if min(lons) >= 180 else 0.0
    lons = [lon + turn for lon in lons]
    corners = list(zip(lats, lons, strict=True))
    edges = tuple((*start, *end) for start, end in zip(corners, [*corners[1:], corners[0]], strict=True))
    west, east = min(lons), max(lons)
    return Polygon(edges, west, box_of(min(lats), west, max(lats), east if east <= 180 else east - 360))


def _nearest(lon: float, to: float) -> float:
    """A longitude plus full turns, so that it is at most 180 degrees away."""
    turns = 0
    while lon + 360 * turns - to > 180:
        turns -= 1
    while lon + 360 * turns - to < -180:
        turns += 1
    return lon + 360 * turns
