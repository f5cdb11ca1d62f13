"""Pictures: colours stand for what they should, and a page can hold any of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tomopipe.functions.quantification.pictures import (
    OBJECT_PALETTE,
    PHASE_PALETTE,
    VALUE_PALETTE,
    Picture,
    grey,
    object_picture,
    phase_picture,
    png,
    value_picture,
)


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_grey_values_are_spread_over_their_range() -> None:
    picture = grey(np.array([[-1.0, 0, 5, 10, 99]]), 0, 10)
    assert picture.tolist() == [[0, 0, 128, 255, 255]]
    assert np.array_equal(np.asarray(opened(png(picture))), picture)


def test_phases_keep_their_colours_and_may_be_many() -> None:
    phases = np.arange(8, dtype=np.uint8)[None]
    colors = np.asarray(opened(phase_picture(phases).png()).convert("RGB"))[0]
    assert np.array_equal(colors[:6], PHASE_PALETTE)
    assert np.array_equal(colors[6], PHASE_PALETTE[1])


def test_objects_next_to_each_other_in_number_differ_clearly() -> None:
    picture = object_picture(np.arange(200, dtype=np.uint32)[None])
    colors = OBJECT_PALETTE[picture.values[0]].astype(int)
    assert np.abs(np.diff(colors[1:], axis=0)).sum(axis=1).min() > 100
    assert colors[1:].max(axis=1).min() > 150
    again = object_picture(np.array([[7, 7, 0]], np.uint32))
    assert again.values[0, 0] == again.values[0, 1] == picture.values[0, 7]
    assert again.values[0, 2] == 0


def test_values_take_the_colours_of_the_bar() -> None:
    picture = value_picture(np.array([[0, np.nan, 1e-9, 5, 10, 12, np.inf, -1]], np.float32), 10)
    assert picture.values.tolist() == [[0, 0, 1, 128, 255, 255, 0, 0]]
    # Perceptually even: lightness, here the luma, never falls from low to high.
    luma = VALUE_PALETTE[1:].astype(float) @ (0.2126, 0.7152, 0.0722)
    assert np.all(np.diff(luma) > -0.5)
    assert luma[-1] - luma[0] > 150


def test_nothing_lets_the_background_through() -> None:
    picture = phase_picture(np.array([[0, 1]], np.uint8))
    assert np.asarray(opened(picture.png(transparent=True)).convert("RGBA"))[0, :, 3].tolist() == [0, 255]
    assert np.asarray(opened(picture.png()).convert("RGBA"))[0, :, 3].tolist() == [255, 255]


@pytest.mark.parametrize("colored", [False, True])
@pytest.mark.parametrize("maximum", [150_000, 20_000, 100])
def test_any_picture_fits_into_a_page(colored: bool, maximum: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (768, 700)).astype(np.uint8)
    media, content = Picture(noise, OBJECT_PALETTE if colored else None).embedded(maximum)
    image = opened(content)
    image.load()
    assert len(content) <= maximum or image.size == (1, 1)
    assert media == Image.MIME[str(image.format)]


def test_what_fits_is_kept_as_it_is() -> None:
    values = np.arange(100, dtype=np.uint8).reshape(10, 10)
    for palette in (None, OBJECT_PALETTE):
        media, content = Picture(values, palette).embedded(10_000)
        assert media == "image/png"
        assert np.array_equal(np.asarray(opened(content)), values)
