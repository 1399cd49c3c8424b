import math

import numpy as np
import pytest
from scipy import ndimage

from detpretrain.datasets.lidc_contours import fill


def pixels(region, mask):
    """{(x, y)} of a region's mask."""
    return {(int(x) + region.column, int(y) + region.row) for y, x in np.argwhere(mask)}


def on_segment(point, start, end):
    (x, y), (x0, y0), (x1, y1) = point, start, end
    if (x1 - x0) * (y - y0) != (y1 - y0) * (x - x0):
        return False
    return min(x0, x1) <= x <= max(x0, x1) and min(y0, y1) <= y <= max(y0, y1)


def by_angles(outline):
    """Inside = the corners, seen from the pixel, turn around it in all; the slow way, with angles."""
    edges = list(zip(outline, outline[1:] + outline[:1], strict=True))
    inside, border = set(), set()
    for x in range(min(p[0] for p in outline), max(p[0] for p in outline) + 1):
        for y in range(min(p[1] for p in outline), max(p[1] for p in outline) + 1):
            if any(on_segment((x, y), *edge) for edge in edges):
                border.add((x, y))
                continue
            turned = 0.0
            for (x0, y0), (x1, y1) in edges:
                turn = math.atan2(y1 - y, x1 - x) - math.atan2(y0 - y, x0 - x)
                turned += (turn + math.pi) % (2 * math.pi) - math.pi
            if abs(turned) > 1.0:
                inside.add((x, y))
    return inside, border


def test_a_square_has_the_pixels_between_its_sides():
    region = fill([(3, 4), (7, 4), (7, 8), (3, 8)])
    assert pixels(region, region.inside) == {(x, y) for x in (4, 5, 6) for y in (5, 6, 7)}
    assert len(pixels(region, region.border)) == 16


def test_columns_and_rows_are_not_mixed_up():
    region = fill([(10, 0), (16, 0), (16, 3), (10, 3)])
    assert (region.column, region.row, region.inside.shape) == (10, 0, (4, 7))
    assert pixels(region, region.inside) == {(x, y) for x in range(11, 16) for y in (1, 2)}


def test_a_traced_chain_of_pixels_is_what_a_flood_fill_finds():
    rng = np.random.default_rng(0)
    for _ in range(20):
        blob = ndimage.binary_opening(ndimage.gaussian_filter(rng.normal(size=(30, 30)), 3) > 0.02)
        labels, count = ndimage.label(np.pad(blob[3:-3, 3:-3], 3))
        if not count:
            continue
        blob = ndimage.binary_fill_holes(labels == 1)
        region = fill(_outer_border(blob))
        assert pixels(region, region.inside) == {(int(x), int(y)) for y, x in np.argwhere(blob)}


def _outer_border(blob):
    """The 4-connected pixel chain just outside an 8-connected blob without holes, by following the cracks around it."""
    y, x = np.argwhere(blob)[0]
    steps = [(1, 0), (0, 1), (-1, 0), (0, -1)]  # x, y: with the blob on the right hand side
    corner, heading, chain = (x, y), 0, []
    while True:
        dx, dy = steps[heading]
        # the pixel on the left of the step along the crack is outside
        left = {0: (corner[0], corner[1] - 1), 1: (corner[0], corner[1]), 2: (corner[0] - 1, corner[1]),
                3: (corner[0] - 1, corner[1] - 1)}[heading]  # fmt: skip
        if not chain or chain[-1] != left:
            chain.append(left)
        corner = (corner[0] + dx, corner[1] + dy)
        for turn in (-1, 0, 1, 2):  # left first: diagonal neighbours belong to the blob
            nx, ny = steps[(heading + turn) % 4]
            right = {(1, 0): corner, (0, 1): (corner[0] - 1, corner[1]), (-1, 0): (corner[0] - 1, corner[1] - 1),
                     (0, -1): (corner[0], corner[1] - 1)}[nx, ny]  # fmt: skip
            if blob[right[1], right[0]]:
                heading = (heading + turn) % 4
                break
        if corner == (x, y) and heading == 0:
            return chain


@pytest.mark.parametrize("seed", range(40))
def test_random_polygons_agree_with_angles(seed):
    rng = np.random.default_rng(seed)
    outline = [tuple(map(int, point)) for point in rng.integers(-6, 9, (int(rng.integers(3, 12)), 2))]
    region = fill(outline)
    inside, border = by_angles(outline)
    assert pixels(region, region.inside) == inside
    assert pixels(region, region.border) == border


def test_an_outline_drawn_twice_or_closed_by_its_first_point_is_the_same():
    square = [(0, 0), (5, 0), (5, 5), (0, 5)]
    for outline in (square * 2, [*square, square[0]], square[::-1]):
        np.testing.assert_array_equal(fill(outline).inside, fill(square).inside)
    assert fill(square).inside.sum() == 16


@pytest.mark.parametrize("outline", [[(4, 5)], [(4, 5), (9, 7)], [(1, 1), (2, 1), (2, 2)]])
def test_a_point_a_line_and_a_small_triangle_enclose_nothing(outline):
    region = fill(outline)
    assert not region.inside.any()
    assert set(outline) <= pixels(region, region.border)


def test_no_points_are_no_outline():
    with pytest.raises(ValueError, match="at least one point"):
        fill([])
