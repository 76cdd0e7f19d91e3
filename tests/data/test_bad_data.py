# Copyright (c) monai_weckd contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Each row of docs/how-to/bad_data.md: what happens to an item that is broken, odd or hostile."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_files import PATIENT, write_dicom, write_series
from monai.bundle import ConfigParser
from PIL import Image

from monai_weckd.data import ByteCacheDataset, image_reader, load_datalist, verify_images
from monai_weckd.transforms import LoadMedicalImage

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
VOLUME = RNG.normal(size=(8, 9, 7)).astype(np.float32)


def picture(path, pixels=COLOR, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def volume(path, array=VOLUME):
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :: 7] = RNG.bytes(len(content[len(content) // 2 :: 7]))
    path.write_bytes(content)


def changed(write, change):
    def make(path):
        write(path)
        change(path)

    return make


def with_voxel(value, dtype=np.float32):
    array = VOLUME.astype(dtype)
    array[3, 3, 3] = value
    return lambda path: volume(path, array)


def pages(path, **options):
    first, *others = (Image.fromarray(COLOR + np.uint8(k)) for k in range(3))
    first.save(path, save_all=True, append_images=others, **options)


def nan_pixel(path):
    pixels = np.ones((4, 5), np.float32)
    pixels[1, 2] = np.nan
    picture(path, pixels)


def two_series(path):
    write_series(path, RNG.integers(0, 99, (5, 6, 3), dtype=np.uint16), np.eye(4), SeriesInstanceUID="1.2.3")
    write_dicom(path / "other.dcm", np.zeros((5, 6), np.uint8), SeriesInstanceUID="1.2.4")


DAMAGED = r"cannot be decoded \(its? [a-z0-9 ,]+\)\. Repair the file or leave it out\."
OTHER_FORMAT = r"expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM, got another format\. Convert it\."
PAGES = r"expected one picture, got 3 pages or frames\. Split it, or save it as NIfTI\."
NOT_FINITE = r"expected finite values, got 1 of \d+ that are NaN or infinite\. Replace them, by 0 where"
EMPTY = r"expected an image, got an empty file\. Copy it again or leave it out\."
NOT_USED = {
    "truncated_png": ("a.png", changed(picture, cut), DAMAGED),
    "truncated_jpeg": ("a.jpg", changed(picture, cut), DAMAGED),
    "truncated_tiff": ("a.tif", changed(picture, cut), DAMAGED),
    "truncated_nifti": ("a.nii", changed(volume, cut), DAMAGED),
    "truncated_gzip": ("a.nii.gz", changed(volume, cut), DAMAGED),
    "truncated_dicom": ("a.dcm", changed(lambda path: write_dicom(path, COLOR), cut), DAMAGED),
    "corrupt_png": ("a.png", changed(picture, flip), DAMAGED),
    "empty_png": ("a.png", Path.touch, EMPTY),
    "empty_nifti": ("a.nii.gz", Path.touch, EMPTY),
    "empty_dicom": ("a.dcm", Path.touch, EMPTY),
    "text": ("a.png", lambda path: path.write_text("the left ear" * 20), OTHER_FORMAT),
    "gif": ("a.gif", pages, OTHER_FORMAT),
    "gif_named_png": ("a.png", lambda path: pages(path, format="GIF"), OTHER_FORMAT),
    "animated_png": ("a.png", pages, PAGES),
    "multi_page_tiff": ("a.tif", pages, PAGES),
    "bomb": (
        "a.png",
        lambda path: Image.new("1", (10_000, 10_000)).save(path),
        r"expected at most 89,478,485 pixels, got more\. Resize it or cut it into tiles\.",
    ),
    "larger_bomb": (
        "a.png",
        lambda path: Image.new("1", (14_000, 14_000)).save(path),
        r"expected at most 89,478,485 pixels, got more\. Resize it or cut it into tiles\.",
    ),
    "nan_voxel": ("a.nii.gz", with_voxel(np.nan), NOT_FINITE),
    "infinite_voxel": ("a.nii", with_voxel(np.inf), NOT_FINITE),
    "too_large_for_float32": ("a.nii", with_voxel(1e300, np.float64), NOT_FINITE),
    "nan_pixel": ("a.tif", nan_pixel, NOT_FINITE),
    "complex": ("a.nii", lambda path: volume(path, VOLUME.astype(np.complex64)), r"expected a real 2-D or 3-D image"),
    "other_colors": (
        "a.tif",
        lambda path: Image.merge("LAB", [Image.fromarray(COLOR[..., 0])] * 3).save(path),
        r"expected a gray or RGB picture, got mode LAB\. Convert it\.",
    ),
    "two_series": ("a", two_series, r"expected one series, got 2: .*Pass series_uid= one of them\."),
}


def folder_with(root, name, make):
    """Return a folder with a manifest of good pictures, and one item made by ``make`` in their midst."""
    for good in ("first.png", "last.png"):
        picture(root / good)
    make(root / name)
    (root / "manifest.csv").write_text(f"file,label\nfirst.png,x\n{name},y\nlast.png,y\n", encoding="utf-8")
    return root


def refused_and_skipped(root, name, reason):
    datalist = load_datalist(root)
    with pytest.raises(
        ValueError, match=rf"^image: expected readable files, got 1 .* first '{name}': {reason}"
    ) as error:
        verify_images(datalist)
    assert str(error.value).endswith(" To go on without such items, pass on_bad_item='skip'.")
    assert str(error.value).isprintable()  # so it is one line
    kept = verify_images(datalist, on_bad_item="skip")
    assert kept.skipped == (name,)
    assert [item["id"] for item in kept.items] == ["first.png", "last.png"]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("name", "make", "reason"), NOT_USED.values(), ids=NOT_USED)
def test_what_cannot_be_used_is_refused_or_skipped(tmp_path, name, make, reason):
    refused_and_skipped(folder_with(tmp_path, name, make), name, reason)
    # what verification finds is what loading refuses, so that nothing fails later
    with pytest.raises(ValueError, match=reason):
        LoadMedicalImage()(tmp_path / name)


def test_a_file_without_permission(tmp_path, monkeypatch):
    root = folder_with(tmp_path, "a.png", picture)
    (root / "a.png").chmod(0)
    if os.access(root / "a.png", os.R_OK):  # as root
        genuine = image_reader.CountedFile

        def counted(path):
            if path.name == "a.png":
                raise PermissionError(13, "Permission denied", str(path))
            return genuine(path)

        monkeypatch.setattr(image_reader, "CountedFile", counted)
    refused_and_skipped(
        root, "a.png", r"cannot be read \(Permission denied\)\. Check that it exists and is readable, or leave it out\."
    )


def test_a_file_that_vanishes_after_it_was_listed(tmp_path):
    datalist = load_datalist(folder_with(tmp_path, "a.png", picture))
    (tmp_path / "a.png").unlink()
    assert verify_images(datalist, on_bad_item="skip").skipped == ("a.png",)


@pytest.mark.parametrize("place", [-1, -5, -40])
def test_the_checksum_of_compressed_nifti_is_compared(tmp_path, place):
    # nibabel stops before the checksum and gives other voxels
    def corrupt(path):
        volume(path)
        content = bytearray(path.read_bytes())
        content[place] ^= 4
        path.write_bytes(content)

    refused_and_skipped(folder_with(tmp_path, "a.nii.gz", corrupt), "a.nii.gz", DAMAGED)


def test_a_nifti_that_claims_too_much_is_not_read(tmp_path):
    volume(tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[42:48] = np.array([2000, 2000, 2000], "<i2").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"a\.nii: expected at most 536,870,912 voxels, got \(2000, 2000, 2000\)\. Crop"
    ):
        LoadMedicalImage()(tmp_path / "a.nii")


DEEP = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
CMYK = Image.fromarray(COLOR).convert("CMYK")
USED = {
    "deep_png": ("a.png", lambda path: picture(path, DEEP), DEEP[..., None]),
    "deep_tiff": ("a.tif", lambda path: picture(path, DEEP), DEEP[..., None]),
    "cmyk_tiff": ("a.tif", lambda path: CMYK.save(path), np.asarray(CMYK.convert("RGB"))),
    "png_named_jpg": ("a.jpg", lambda path: picture(path, format="PNG"), COLOR),
    "png_named_dcm": ("a.dcm", lambda path: picture(path, format="PNG"), COLOR),
    "dicom_named_png": ("a.png", lambda path: write_dicom(path, COLOR), COLOR),
    "one_pixel": ("a.png", lambda path: picture(path, COLOR[:1, :1]), COLOR[:1, :1]),
    "constant": ("a.png", lambda path: picture(path, np.full_like(COLOR, 7)), np.full_like(COLOR, 7)),
    "name_not_ascii": ("kind/\u8033 \xf6hr #1%.png", picture, COLOR),
    "name_with_quotes": ("a'b.png", picture, COLOR),
}


@pytest.mark.parametrize(("name", "make", "expected"), USED.values(), ids=USED)
def test_what_is_odd_but_sound_is_read(tmp_path, name, make, expected):
    datalist = load_datalist(folder_with(tmp_path, name, make))
    assert verify_images(datalist) == datalist
    item = next(item for item in datalist.items if item["id"] == name)
    np.testing.assert_array_equal(LoadMedicalImage()(item["image"]), expected.transpose(2, 1, 0))


HEAD = "file,label\n"
SOUND = {
    "byte_order_mark": "\ufeff" + HEAD + "a.png,x\nb.png,y\n",
    "crlf": HEAD.replace("\n", "\r\n") + "a.png,x\r\nb.png,y\r\n",
    "cr": HEAD.replace("\n", "\r") + "a.png,x\rb.png,y\r",
    "quotes": '"file","label"\n"a.png","x"\n"b.png","y"\n',
    "spaces_and_empty_rows": HEAD + " a.png , x\n\n,\nb.png,y\n",
    "dots_that_stay_inside": HEAD + "./a.png,x\nsub/../b.png,y\n",
}
BAD = {
    "duplicate": (HEAD + "a.png,x\nb.png,y\na.png,x\n", r"row 4: expected each file once, got 'a\.png' as in row 2"),
    "duplicate_spelled_otherwise": (HEAD + "a.png,x\nsub/../a.png,y\n", r"row 3: expected each file once"),
    "absolute": (HEAD + "a.png,x\n/etc/hostname,y\n", r"row 3: expected a path inside .*, got '/etc/hostname'\. Write"),
    "escape": (
        HEAD + "a.png,x\n../b.png,y\n",
        r"row 3: expected a path inside .*, got '\.\./b\.png'\. Write it relative",
    ),
    "hidden_escape": (HEAD + "a.png,x\nsub/../../b.png,y\n", r"row 3: expected a path inside"),
    "dangling_link": (
        HEAD + "a.png,x\nnowhere.png,y\n",
        r"row 3: expected an existing file, got 'nowhere\.png'\. Correct",
    ),
}


def manifest(root, text):
    for name in ("a.png", "b.png"):
        picture(root / name)
    (root / "sub").mkdir()
    (root / "nowhere.png").symlink_to(root / "absent.png")
    (root / "manifest.csv").write_bytes(text.encode())
    return root


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND)
def test_a_sound_manifest_is_read_however_it_was_saved(tmp_path, text):
    found = verify_images(load_datalist(manifest(tmp_path, text)))
    assert [(item["id"], item["label"]) for item in found.items] == [("a.png", 0), ("b.png", 1)]


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_a_bad_manifest_is_refused_by_its_row(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"manifest\.csv, {message}") as error:
        load_datalist(manifest(tmp_path, text))
    assert str(error.value).isprintable()


def test_links_out_of_the_folder_are_followed(tmp_path):
    # whoever makes the folder makes its links: data sets are often farms of links to a store elsewhere
    picture(tmp_path / "store" / "1.png")
    for name in ("x/a.png", "y/b.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).symlink_to(tmp_path / "store" / "1.png")
    found = verify_images(load_datalist(tmp_path / "data"))
    assert [item["id"] for item in found.items] == ["x/a.png", "y/b.png"]
    assert found.items[0]["image"] == str(tmp_path / "data" / "x" / "a.png")


def test_a_line_break_in_a_name_stays_inside_one_line_of_the_log(tmp_path, caplog):
    root = tmp_path / "data"
    for name in ("x/1.png", "y/2.png"):
        picture(root / name)
    (root / "x" / "fake\nERROR all is lost.png").touch()
    verify_images(load_datalist(root), on_bad_item="skip")
    assert caplog.records[-1].getMessage().isprintable()


def preprocessing(kind):
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / f"{kind}_chain_classification" / "configs" / "train.json"))
    parser.get_parsed_content("imports")
    return parser.get_parsed_content("train#preprocessing")


@pytest.mark.parametrize("value", [0, 1, 1000, 0.1, -7.3])
@pytest.mark.parametrize("kind", ["brain_mri", "brain_mri_3d"])
def test_a_constant_image_is_normalized_to_a_finite_one(tmp_path, kind, value):
    shape = (17, 23) if kind == "brain_mri" else (17, 23, 19)
    nib.save(nib.Nifti1Image(np.full(shape, value, np.float32), np.diag([0.7, 0.9, 1.3, 1])), tmp_path / "a.nii")
    dataset = ByteCacheDataset([{"image": str(tmp_path / "a.nii")}], preprocessing(kind))
    assert dataset[0]["image"].isfinite().all()
    assert dataset[0]["image"].abs().max() <= 10


@pytest.mark.parametrize("length", [200, 300, 400, 500, 600])
def test_what_is_said_of_a_damaged_dicom_has_no_patient(tmp_path, caplog, recwarn, length):
    def make(path):
        write_dicom(path, COLOR)
        path.write_bytes(path.read_bytes()[:length])

    datalist = load_datalist(folder_with(tmp_path, "a.dcm", make))
    with pytest.raises(ValueError, match=r"a\.dcm") as error:
        verify_images(datalist)
    kept = verify_images(datalist, on_bad_item="skip")
    said = [str(error.value), caplog.text, repr(kept), *(str(warning.message) for warning in recwarn)]
    assert not [value for value in PATIENT.values() if value in " ".join(said)]
