"""Trial slices against slices made one by one, and the sheet against what a person has to see on it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tomopipe.functions.center_trials import (
    MOST_TRIALS,
    Detail,
    contact_sheet,
    joined_columns,
    joined_reconstruction,
    liveliest_detail,
    quick_reconstruction,
    trial_centers,
    trial_slices,
)
from tomopipe.functions.errors import ParameterError
from tomopipe.functions.reconstruction.fourier import FourierGridding


def discs(
    theta: NDArray[np.float64], columns: int, center: float, radius: float, holes: int = 12
) -> NDArray[np.float32]:
    """Sinogram (angles, columns) of a disc with holes."""
    rng = np.random.default_rng(2)
    t = np.arange(columns)[:, None] - center + (np.arange(4) - 1.5) / 4
    out = 2 * np.sqrt(np.maximum(radius**2 - t**2, 0)).mean(axis=1)[None].repeat(len(theta), axis=0)
    for _ in range(holes):
        distance, phase, r = radius * rng.uniform(0, 0.8), rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.04, 0.12)
        middle = distance * np.cos(theta - phase)[:, None, None]
        out = out - 2 * np.sqrt(np.maximum(r**2 - (t - middle) ** 2, 0)).mean(axis=2)
    return (out / radius).astype(np.float32)


HALF_TURN = np.arange(120) * np.pi / 120
WHOLE_TURN = np.arange(240) * np.pi / 120


def test_each_slice_is_the_one_with_its_centre_to_the_bit() -> None:
    sinogram = discs(HALF_TURN, 96, 50.3, 40)
    centers = trial_centers(50.3, 10, 0.5, 96)
    assert len(centers) == 21  # two batches
    slices = trial_slices(sinogram, quick_reconstruction(HALF_TURN, 96), centers)
    assert slices.shape == (21, 96, 96)
    assert slices.dtype == np.float32
    for index in (0, 10, 20):
        alone = FourierGridding(HALF_TURN, 96, float(centers[index]))(sinogram[:, None])[0]
        np.testing.assert_array_equal(slices[index], alone)


def test_the_right_centre_gives_the_disc() -> None:
    sinogram = discs(HALF_TURN, 96, 50.3, 40, holes=0)
    slices = trial_slices(sinogram, quick_reconstruction(HALF_TURN, 96), [50.3, 53.3])
    axis = np.arange(96) - 47.5
    squared = axis[:, None] ** 2 + axis**2
    errors = [
        float(np.sqrt(np.mean((image - np.where(squared <= 40**2, 1 / 40, 0))[squared <= 46**2] ** 2)))
        for image in slices
    ]
    assert errors[0] < 0.1 / 40
    assert errors[1] > 2 * errors[0]


def test_a_detail_is_a_part_of_the_slices() -> None:
    sinogram = discs(HALF_TURN, 96, 50.3, 40)
    reconstruct = quick_reconstruction(HALF_TURN, 96)
    detail = Detail(row=20, column=31, size=40)
    whole = trial_slices(sinogram, reconstruct, [49.0, 50.0])
    np.testing.assert_array_equal(trial_slices(sinogram, reconstruct, [49.0, 50.0], detail), whole[:, 20:60, 31:71])


def test_only_so_many_trials_are_reconstructed_at_once_as_the_engine_takes() -> None:
    given: list[int] = []

    def reconstruct(projections: NDArray[np.float32], centers: NDArray[np.float64]) -> NDArray[np.float32]:
        assert projections.shape == (6, len(centers), 8)
        given.append(len(centers))
        return np.broadcast_to(centers[:, None, None], (len(centers), 8, 8)).astype(np.float32)

    centers = np.arange(35) / 7
    slices = trial_slices(np.zeros((6, 8), np.float32), reconstruct, centers)
    assert given == [16, 16, 3]
    np.testing.assert_array_equal(slices[:, 0, 0], centers.astype(np.float32))


def test_the_liveliest_detail_is_where_edges_are() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.05, (400, 400)).astype(np.float32)
    image[250:300:10, 90:140] += 1
    detail = liveliest_detail(image, 100)
    assert detail.size == 100
    assert detail.row <= 250
    assert detail.row + 100 >= 295
    assert detail.column <= 90
    assert detail.column + 100 >= 140
    assert detail.of(image).shape == (100, 100)


def test_the_edge_of_the_reconstructed_circle_is_no_detail() -> None:
    axis = np.arange(400) - 199.5
    radius = np.sqrt(axis[:, None] ** 2 + axis**2)
    image = np.where(radius <= 200, 5.0, 0.0)
    image[190:210, 180:200] += 0.5
    detail = liveliest_detail(image, 80)
    assert detail.row <= 190 <= detail.row + 60
    assert detail.column <= 180 <= detail.column + 60


@pytest.mark.parametrize(("columns", "size"), [(40, 40), (64, 64), (100, 64), (300, 150), (900, 192)])
def test_a_detail_is_large_enough_to_see(columns: int, size: int) -> None:
    detail = liveliest_detail(np.zeros((columns, columns)))
    assert detail.size == size
    assert 0 <= detail.row <= columns - size
    assert 0 <= detail.column <= columns - size


def test_centres() -> None:
    np.testing.assert_allclose(trial_centers(50.25, 2, 0.5, 96), [49.25, 49.75, 50.25, 50.75, 51.25])
    np.testing.assert_allclose(trial_centers(1, 6, 1, 96), [0, 1, 2, 3, 4])
    np.testing.assert_allclose(trial_centers(94.5, 2, 0.5, 96), [93.5, 94, 94.5, 95])
    np.testing.assert_allclose(trial_centers(50, 0.3, 0.1, 96), [49.9, 50, 50.1])
    assert len(trial_centers(50, 0.1, 1, 96)) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((96.0, 6.0, 0.5), r"--around 96: lies outside the 96 columns; give 0 to 95"),
        ((50.0, 0.0, 0.5), r"--width 0 and --step 0\.5"),
        ((50.0, 6.0, -1.0), r"--step -1"),
        ((50.0, float("nan"), 1.0), r"--width nan"),
        ((50.0, 90.0, 0.5), rf"makes 181 slices; at most {MOST_TRIALS}"),
    ],
)
def test_centres_that_are_refused(arguments: tuple[float, float, float], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        trial_centers(*arguments, 96)


@pytest.mark.parametrize("center", [20.4, 75.1, 92.0])
def test_halves_of_a_double_field_of_view_are_joined_at_each_centre(center: float) -> None:
    """The sample is wider than the detector; joined at the right centre it is whole, elsewhere it has a ridge."""
    far = max(center, 95 - center)
    sinogram = discs(WHOLE_TURN, 96, center, 0.9 * far, holes=0)
    centers = np.append(trial_centers(center, 4, 0.25, 96), center)  # two batches
    width = joined_columns(96, centers)
    slices = trial_slices(sinogram, joined_reconstruction(WHOLE_TURN, width=width), centers)
    assert slices.shape == (len(centers), width, width)
    assert 2 * far < width <= 2 * far + 7
    axis = np.arange(width) - (width - 1) / 2
    squared = axis[:, None] ** 2 + axis**2
    inside = (squared <= (0.8 * far) ** 2) & (squared > 5**2)
    errors = np.array([float(np.sqrt(np.mean((image[inside] * 0.9 * far - 1) ** 2))) for image in slices])
    assert errors[-1] < 0.03
    assert errors[np.abs(centers - center) > 1].min() > 1.5 * errors[-1]
    largest = trial_slices(sinogram, joined_reconstruction(WHOLE_TURN), [center])[0]
    margin = (largest.shape[0] - width) // 2
    assert largest.shape == (193, 193)
    middle = largest[margin : margin + width, margin : margin + width]
    np.testing.assert_allclose(middle[inside], slices[-1][inside], atol=0.01 / far)


def test_the_sheet_shows_every_trial_and_marks_the_one_that_was_taken() -> None:
    rng = np.random.default_rng(1)
    slices = rng.uniform(0, 1, (7, 40, 40)).astype(np.float32)
    slices[4] = 0.75  # one even tile, which can be found again
    centers = 20 + 0.5 * np.arange(7)
    content = contact_sheet(slices, centers, "a scan, row 3", taken=22.1)
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert content.startswith(b"\x89PNG")
    assert len(content) < 400_000
    across, down = picture.shape[1] // 4, picture.shape[0] // 2
    assert across > 200
    assert down > 200
    orange = (picture[..., 0] > 180) & (picture[..., 1] < 140) & (picture[..., 2] < 80)
    rows, columns = np.nonzero(orange)
    # 22.0 is the fifth trial: the first of the second line of four.
    assert rows.min() > 0.45 * picture.shape[0]
    assert columns.max() < 0.3 * picture.shape[1]
    unmarked = contact_sheet(slices, centers, "a scan, row 3", taken=None)
    other = np.asarray(Image.open(io.BytesIO(unmarked)).convert("RGB")).astype(int)
    assert not ((other[..., 0] > 180) & (other[..., 1] < 140) & (other[..., 2] < 80)).any()
    assert contact_sheet(slices, centers, "a scan, row 3", taken=22.1) == content


def test_a_sheet_of_one_blank_slice_can_be_drawn() -> None:
    assert Image.open(io.BytesIO(contact_sheet(np.zeros((1, 8, 8)), [3.0], "blank", 3.0))).size[0] > 200
