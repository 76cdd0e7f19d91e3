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

from __future__ import annotations

import numpy as np
import pytest
from phantom_files import KINDS, contents, manifest, pixels
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from monai_weckd.data.phantoms import is_phantom, make_phantom


def test_unknown_kind_names_the_nearest(tmp_path):
    with pytest.raises(
        ValueError, match=r"^kind: expected a kind of phantom, got 'otoscop'. Did you mean 'otoscopy'\?"
    ):
        make_phantom("otoscop", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_items_than_classes(tmp_path, kind):
    with pytest.raises(ValueError, match=f"^items: expected at least {KINDS[kind]}, one for each class, got 2. Ask"):
        make_phantom(kind, tmp_path / "new", items=2)
    assert not (tmp_path / "new").exists()


def test_negative_seed(tmp_path):
    with pytest.raises(ValueError, match=r"^seed: expected 0 or more, got -1. Pass another seed.$"):
        make_phantom("otoscopy", tmp_path / "new", seed=-1)


def test_folder_in_use(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"^out: expected an empty or new folder, got a folder that is not empty: .*"):
        make_phantom("otoscopy", tmp_path, items=4)
    with pytest.raises(
        ValueError, match=r"^out: expected an empty or new folder, got a file: .*note.txt. Name another"
    ):
        make_phantom("otoscopy", tmp_path / "note.txt", items=4)
    assert contents(tmp_path) == {"note.txt": b"mine"}


def test_returns_the_folder(tmp_path):
    assert make_phantom("blood_smear", str(tmp_path), items=4) == tmp_path
    assert make_phantom("blood_smear", tmp_path / "a" / "b", items=4) == tmp_path / "a" / "b"


@pytest.mark.parametrize("kind", KINDS)
def test_same_bytes_again_and_others_for_another_seed(tmp_path, kind):
    first, again, other = (
        contents(make_phantom(kind, tmp_path / name, items=6, seed=seed))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    images = [name for name in first if "/" in name]
    assert len(images) == 6
    assert not {first[name] for name in images} & set(other.values())
    assert len({first[name] for name in images}) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_items_are_the_beginning_of_more(tmp_path, phantoms, kind):
    few, many = contents(make_phantom(kind, tmp_path / "few", items=7)), contents(phantoms[kind])
    assert manifest(tmp_path / "few") == manifest(phantoms[kind])[:7]
    assert all(many[name] == data for name, data in few.items() if "/" in name)


@pytest.mark.parametrize("kind", KINDS)
def test_manifest_lists_every_image(phantoms, kind):
    rows = manifest(phantoms[kind])
    assert list(rows[0]) == ["file", "label", "group", "split"]
    assert all(row["file"].startswith(row["label"] + "/") and "\\" not in row["file"] for row in rows)
    files = {row["file"] for row in rows} | {"manifest.csv", "SOURCE.md"}
    assert files == {p.relative_to(phantoms[kind]).as_posix() for p in phantoms[kind].rglob("*") if p.is_file()}


def test_brain_slices_lie_in_a_folder_for_each_patient(phantoms):
    for row in manifest(phantoms["brain_mri"]):
        label, patient, name = row["file"].split("/")
        assert (label, patient) == (row["label"], row["group"])
        assert name.endswith(".dcm")


@pytest.mark.parametrize("kind", KINDS)
def test_source_says_what_it_is(phantoms, kind):
    text = (phantoms[kind] / "SOURCE.md").read_text(encoding="utf-8")
    count = len(manifest(phantoms[kind]))
    assert "synthetic phantom" in text
    assert "proves nothing about patients" in text
    assert f"make_phantom('{kind}', ..., items={count}, seed=0)" in text


@pytest.mark.parametrize("kind", KINDS)
def test_light_or_gain_gives_the_group_away(phantoms, kind):
    rows = manifest(phantoms[kind])
    mean = np.log([pixels(phantoms[kind] / row["file"]).mean() for row in rows])
    groups = np.array([row["group"] for row in rows])
    within = np.mean([mean[groups == g].var(ddof=1) for g in np.unique(groups) if (groups == g).sum() > 1])
    assert within < 0.6 * mean.var(ddof=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("statistic", ["mean", "std"])
def test_one_pixel_statistic_does_not_tell_the_classes(phantoms, kind, statistic):
    rows = manifest(phantoms[kind])
    images = [pixels(phantoms[kind] / row["file"]) for row in rows]
    features = np.array([getattr(i.reshape(-1, i.shape[-1]), statistic)(0) for i in images])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, max_iter=5000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    labels, groups = [row["label"] for row in rows], [row["group"] for row in rows]
    accuracy = cross_val_score(classifier, features, labels, groups=groups, cv=folds).mean()
    assert accuracy < 0.70


@pytest.mark.parametrize(("kind", "size"), [("otoscopy", 128), ("blood_smear", 96)])
def test_pictures_are_rgb(phantoms, kind, size):
    for row in manifest(phantoms[kind])[:8]:
        with Image.open(phantoms[kind] / row["file"]) as picture:
            assert (picture.mode, picture.size, picture.format) == ("RGB", (size, size), "PNG")
            assert np.asarray(picture).std() > 10


def test_a_phantom_can_be_told_from_data(phantoms, tmp_path):
    assert is_phantom(phantoms["otoscopy"])
    assert not is_phantom(tmp_path)
    (tmp_path / "SOURCE.md").write_text("# Images of patients")
    assert not is_phantom(tmp_path)
