"""The strip of slices: which ones it holds, that nothing moves when it is made smaller, and what the page reads of it."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detpretrain.report.film import grey, jpeg, make_film, shrink, spread_slices


def picture(uri):
    head, _, content = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@given(st.integers(1, 300), st.data())
def test_slices_are_spread_and_hold_the_wanted_ones(depth, data):
    wanted = data.draw(st.lists(st.integers(0, depth - 1), max_size=8))
    found = spread_slices(depth, wanted, 40)
    assert found == sorted(set(found))
    assert len(found) == min(depth, 40)
    assert set(wanted) <= set(found)
    assert max(np.diff([-1, *found, depth])) <= max(1, 2 * -(-depth // 20))


def test_too_many_wanted_slices_leave_room_for_the_others():
    found = spread_slices(1000, list(range(500, 600)), 40)
    assert len(found) == 40
    assert [index for index in found if 500 <= index < 519] == list(range(500, 518))
    assert np.diff(found).max() < 1000 / 11  # 22 others; even ones would be half as far apart


def test_a_small_slice_stays_as_it_is_and_a_large_one_keeps_its_place():
    small = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(shrink(small, 256), small)
    large = np.zeros((400, 800), np.float32)
    large[100:140, 600:640] = 1
    found = shrink(large, 200)
    assert found.shape == (100, 200)
    rows, columns = np.nonzero(found > 0.5)
    # 4 voxels to a pixel: voxels 100..139 and 600..639
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25, 34, 150, 159)
    assert found.mean() == pytest.approx(large.mean(), rel=0.02)


def test_window_is_black_to_white():
    assert grey(np.array([[-2000.0, -1000.0, -300.0, 400.0, 900.0]]), (-1000.0, 400.0)).tolist() == [
        [0, 0, 128, 255, 255]
    ]


def test_film_holds_its_slices_from_top_to_bottom():
    image = np.full((50, 30, 40), -1000.0, np.float32)
    image[17] = 400.0
    film = make_film("case", image, (2.0, 1.5, 1.0), (-1000.0, 400.0), wanted=[17])
    strip = picture(film.source)
    assert strip.shape == (40 * 30, 40)
    at = film.slices.index(17)
    means = strip.reshape(40, 30, 40).mean(axis=(1, 2))
    assert means[at] > 200
    assert np.delete(means, at).max() < 60  # JPEG blocks of 8 cross the border of slices
    told = film.to_json()
    assert told["z"][at] == 34.0
    assert (told["left"], told["top"], told["width"], told["height"]) == (-0.5, -0.75, 40.0, 45.0)


def test_jpeg_is_the_same_for_the_same_pixels():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert jpeg(pixels) == jpeg(pixels)
    assert np.abs(picture(jpeg(pixels)).astype(int) - pixels).max() < 12
