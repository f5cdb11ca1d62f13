"""Maps of bad pixels in every kind of file, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tomopipe.functions.errors import InputError
from tomopipe.functions.preprocessing.bad_pixels import read_bad_pixels

BAD = np.random.default_rng(3).random((12, 17)) < 0.2


def save(path: Path, values: NDArray[Any]) -> str:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix.startswith(".tif"):
        Image.fromarray(values).save(path)
    else:
        with h5py.File(path, "w") as file:
            file["detector/mask"] = values
        return f"{path}:/detector/mask"
    return str(path)


@pytest.mark.parametrize("name", ["bad.npy", "bad.tif", "bad.TIFF", "bad.h5", "bad.nxs"])
@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "i4", "f4"])
def test_a_map_is_read_from_any_file(tmp_path: Path, name: str, dtype: str) -> None:
    values = BAD if dtype == "?" else 7 * BAD.astype(dtype)
    if dtype == "f4":
        values[0, 0] = np.nan  # no number is no good pixel
    path = tmp_path / name
    if path.suffix == ".TIFF":
        path = Path(save(path.with_suffix(".tif"), values)).rename(path)
        source = str(path)
    else:
        source = save(path, values)
    found = read_bad_pixels(source, (12, 17))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, BAD | (values != values))


def test_one_frame_of_a_stack_is_a_map(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_bad_pixels(save(tmp_path / "bad.npy", BAD[None])), BAD)
    np.testing.assert_array_equal(read_bad_pixels(tmp_path / "bad.npy"), BAD)


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "bad.h5", BAD)
    np.save(tmp_path / "objects.npy", np.array([[None, "x"]]), allow_pickle=True)
    (tmp_path / "text.tif").write_text("no picture")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "mask.png").write_bytes(b"")
    for source, message in (
        (tmp_path / "nothing.npy", "no such file"),
        (tmp_path / "nothing.h5:/mask", "no such file"),
        (tmp_path / "objects.npy", "cannot be read"),
        (tmp_path / "text.tif", "cannot be read"),
        (tmp_path / "text.npy", "cannot be read"),
        (tmp_path / "mask.png", r"a \.png is not understood; give a \.npy"),
        (tmp_path / "bad.h5", r"a \.h5 is not understood; .*file\.h5:/path"),
        (tmp_path / "bad.h5:/other", "cannot be read"),
        (tmp_path / "bad.h5:/detector", "cannot be read"),
        (save(tmp_path / "line.npy", BAD[0]), r"holds bool of shape \(17,\)"),
        (save(tmp_path / "stack.npy", np.stack([BAD, BAD])), r"of shape \(2, 12, 17\)"),
        (save(tmp_path / "complex.npy", BAD.astype(complex)), "holds complex128"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_bad_pixels(source)
        assert str(caught.value).startswith("bad_pixel_map ")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"has \(12, 17\) \(rows, columns\), the detector \(24, 34\)"):
        read_bad_pixels(good, (24, 34))
