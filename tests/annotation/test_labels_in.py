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

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from monai_weckd.annotation import AnnotationSession, take_labels
from monai_weckd.annotation.label_files import rebuild_labels
from monai_weckd.annotation.labels_in import read_upload, take_incoming
from monai_weckd.plan.label_kind import LabelKind

NAMES = ["a.png", "b/b.png", "c.png"]


@pytest.fixture
def here(tmp_path):
    for name in NAMES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / name)
    bundle = SimpleNamespace(
        kind=LabelKind(("ill", "well")), spatial_dims=2, item_level="image", root=Path("b"), seed=0
    )
    chain = SimpleNamespace(bundle=bundle, output_dir=tmp_path / "output", learn=lambda *given: None)
    return AnnotationSession(chain, tmp_path / "images")


@pytest.fixture
def manifest(tmp_path):
    def write(*rows):
        path = tmp_path / "first.csv"
        path.write_text("file,label\n" + "".join(f"{row}\n" for row in rows))
        return path

    return write


def test_labels_of_a_manifest_are_as_if_given(here, manifest):
    here.put_label("a.png", "well", who="Ada")
    path = manifest("a.png,ill", "b/b.png,Ill", "c.png,")
    assert take_labels(here, path) == (1, 1)
    assert take_labels(here, path) == (0, 2)  # at the next start
    assert here.labels == {"a.png": "well", "b/b.png": "ill"}
    log = here.store.path.with_suffix(".log").read_text().splitlines()
    last = json.loads(log[-1])
    expected = {"ts": last["ts"], "who": None, "what": "label", "id": "b/b.png", "label": "ill"}
    assert last == {**expected, "info": {"source": "first.csv"}}
    assert len(log) == 2
    assert rebuild_labels(here.store.path)
    assert take_labels(here, manifest("c.png,cannot tell")) == (1, 0)
    assert here.given["c.png"] == "cannot tell"
    assert "c.png" not in here.labels


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b/b.png,wel", r"row 3: expected one of the 2 classes, got 'wel'\. Did you mean 'well'\?"),
        ("d.png,well", r"row 3: expected an image in 'images', got 'd\.png'\. Correct the manifest\."),
        ("a.png,well", r"row 3: expected one label for 'a\.png', got 'well' and 'ill'\."),
    ],
)
def test_what_is_unknown_is_refused_before_any_label_is_taken(here, manifest, row, message):
    with pytest.raises(ValueError, match=message):
        take_labels(here, manifest("a.png,ill", row))
    assert here.labels == {}
    assert not here.store.path.with_suffix(".log").exists()


def test_a_manifest_is_shown_before_its_labels_are_taken(here):
    here.put_label("a.png", "well", who="Ada")
    found = read_upload(here, "mine.csv", b"file,label\na.png,ill\nb/b.png,ill\nc.png,cannot tell\nd.png,ill\n")
    assert found.summary(here) == {
        "source": "mine.csv",
        "new": 2,
        "counts": {"ill": 1, "cannot tell": 1},
        "same": 0,
        "conflicts": [{"id": "a.png", "has": "well", "manifest": "ill"}],
        "missing": [found.missing[0]],
    }
    assert found.missing[0].startswith("mine.csv, row 5: expected an image in ")
    assert here.labels == {"a.png": "well"}
    take_incoming(here, found, who="Bob")
    assert here.given == {"a.png": "well", "b/b.png": "ill", "c.png": "cannot tell"}
    assert here.store.info("b/b.png")["who"] == "Bob"
    with pytest.raises(ValueError, match=r"^mine\.csv, row 2: expected one of the 2 classes, got 'il'\."):
        read_upload(here, "../mine.csv", b"file,label\na.png,il\n")
