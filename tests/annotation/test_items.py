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

"""One label for all images of a patient, study or series, from the listing to the export."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from annotation_runs import QuietChain, make_bundle
from dicom_files import write_dicom
from PIL import Image

from monai_weckd.annotation import (
    AnnotatedChain,
    AnnotationSession,
    LabelStore,
    UnknownImageError,
    find_items,
    take_labels,
)
from monai_weckd.annotation.images import first_readable, middle_readable
from monai_weckd.annotation.label_files import labeled_level, rebuild_labels
from monai_weckd.annotation.live import LiveHead
from monai_weckd.annotation.order import Scores, digests
from monai_weckd.annotation.reports import label_reports
from monai_weckd.annotation.worklist import WorklistSession
from monai_weckd.cli.main import main
from monai_weckd.data import read_datalist
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.data.verify import find_faults
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.utils.enums import UNLABELED

FILES = {"a.png": ("p1", "s1"), "b.png": ("p1", "s2"), "c.png": ("p2", "s1"), "d.png": ("p1", "s1"), "e.png": ("", "")}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(FILES):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / name)
    rows = "".join(f"{name},,{group},{study}\n" for name, (group, study) in FILES.items())
    (folder / "manifest.csv").write_text(f"file,label,group,study\n{rows}")
    return folder


def session_of(images, output_dir, level="study", kind=None):
    chain = QuietChain(output_dir)
    chain.bundle.item_level, chain.bundle.kind = level, kind or chain.bundle.kind
    return AnnotationSession(chain, images)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("study", {"p1/s1": ["a.png", "d.png"], "p1/s2": ["b.png"], "p2/s1": ["c.png"], "e.png": ["e.png"]}),
        ("patient", {"p1": ["a.png", "b.png", "d.png"], "p2": ["c.png"], "e.png": ["e.png"]}),
    ],
)
def test_an_item_has_the_images_and_the_name_that_training_gives_it(images, level, expected):
    items = find_items(images, spatial_dims=2, item_level=level)
    assert {item["id"]: [path.rpartition("/")[2] for path in item["images"]] for item in items} == expected
    trained = read_datalist(images, classes=("ill", "well"), item_level=level).items
    assert {key: (item["images"], item["group"]) for item in trained for key in [item["id"]]} == {
        item["id"]: (item["images"], item["group"]) for item in items
    }
    assert {key for item in items for key in item} == {"images", "id", "group"}


@pytest.mark.parametrize("name", ["..", "a/../b", "/a", "a//b", "p/png", "x" * 241])
def test_refuses_a_name_that_an_address_cannot_have(images, name):
    (images / "manifest.csv").write_text(f"file,group\na.png,{name}\n")
    with pytest.raises(
        ValueError, match=r"^item_level: expected names of at most 240 bytes, .* for each patient, got "
    ):
        find_items(images, spatial_dims=2, item_level="patient")


def test_refuses_images_of_unknown_patients(images):
    (images / "manifest.csv").unlink()
    with pytest.raises(
        ValueError, match=r"item_level: expected images with a known patient, got none of 5\. Pass DICOM"
    ):
        find_items(images, spatial_dims=2, item_level="patient")


def test_an_image_that_cannot_be_read_is_not_the_one_to_show(images):
    (images / "b.png").write_bytes(b"\x89PNG and no more")
    (patient, *_) = find_items(images, spatial_dims=2, item_level="patient")
    paths = patient["images"]
    assert (first_readable(paths[1:]), middle_readable(paths)) == (0, 1)  # nobody has read it
    find_faults([{"id": path, "image": path} for path in paths])
    assert (first_readable(paths[1:]), middle_readable(paths)) == (1, 2)
    assert (first_readable(paths[1:2]), middle_readable(paths[1:2])) == (0, 0)


def test_a_label_is_of_an_item_in_log_state_and_file(images, tmp_path):
    here = session_of(images, tmp_path / "output")
    assert here.put_label("p1/s1", "ill", who="Ada") is None
    here.put_label("p1/s2", "cannot tell", who="Ada")
    assert here.put_label("p1/s1", "Background", who="Ada") == "ill"
    assert here.labels == {"p1/s1": "Background"}
    state = here.state(who="Ada")
    assert (state["item_level"], state["images"]["total"], state["images"]["labeled"]) == ("study", 4, 1)
    with pytest.raises(UnknownImageError, match=r"id: expected a study in 'images', got 'a\.png'\. Ask for the list\."):
        here.put_label("a.png", "ill")
    first, *_ = (tmp_path / "output" / "labels.log").read_text().splitlines()
    event = json.loads(first)
    assert (event["what"], event["level"], event["spatial_dims"]) == ("items", "study", 2)
    assert labeled_level(here.store.path) == ("study", 2)
    assert rebuild_labels(here.store.path)
    here.store.path.with_suffix(".log").unlink()  # the file alone says it, too
    assert labeled_level(here.store.path) == ("study", 2)
    assert session_of(images, tmp_path / "output").labels == {"p1/s1": "Background"}


@pytest.mark.parametrize(("before", "after"), [("study", "image"), ("study", "patient"), ("image", "study")])
@pytest.mark.parametrize("has_log", [True, False])
def test_refuses_labels_of_another_level(tmp_path, before, after, has_log):
    store = LabelStore(tmp_path / "labels.json", ("ill", "well"), item_level=before)
    store.put("x", "ill")
    if not has_log:
        store.path.with_suffix(".log").unlink()
    message = rf"expected the item_level '{before}', of which it has labels, got '{after}'\. Pass another folder"
    with pytest.raises(ValueError, match=message):
        LabelStore(store.path, ("ill", "well"), item_level=after)


def test_an_image_s_label_in_a_manifest_is_its_item_s(images, tmp_path):
    here = session_of(images, tmp_path / "output")
    path = tmp_path / "some.csv"
    path.write_text("file,label\nd.png,ill\na.png,ill\np2/s1,Background\nb.png,\n")
    assert take_labels(here, path) == (2, 0)
    assert here.labels == {"p1/s1": "ill", "p2/s1": "Background"}
    path.write_text("file,label\na.png,ill\nd.png,Background\n")
    with pytest.raises(ValueError, match=r"row 3: expected one label for 'p1/s1', got 'Background' and 'ill'\."):
        take_labels(here, path)


def test_findings_of_several_images_are_those_of_their_item(images, tmp_path):
    here = session_of(images, tmp_path / "output", kind=LabelKind(("effusion", "nodule"), findings=True))
    path = tmp_path / "some.csv"
    path.write_text("file,finding:effusion,finding:nodule\na.png,1,\nd.png,,0\n")
    assert take_labels(here, path) == (1, 0)
    assert here.labels == {"p1/s1": "effusion=1|nodule=0"}
    path.write_text("file,finding:effusion\na.png,1\nd.png,0\n")
    with pytest.raises(ValueError, match="expected one label for 'p1/s1', got"):
        take_labels(here, path)


def test_an_exported_manifest_gives_training_the_same_items_and_labels(images, tmp_path, capsys):
    here = session_of(images, tmp_path / "output")
    here.put_label("p1/s1", "ill", who="Ada")
    here.put_label("e.png", "Background", who="Ada")
    here.store.put("gone/s1", "ill")
    output = tmp_path / "labeled.csv"
    options = ["--dataset_dir", str(images), "--labels", str(here.store.path), "--output", str(output)]
    assert main(["manifest", *options]) == 0
    out = capsys.readouterr().out
    assert out == f"items   2 labeled, 2 not\nlabels  1 passed over: of studies that are gone\nwritten {output}\n"
    with output.open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert {name: row["label"] for name, row in rows.items()} == {
        "a.png": "ill", "b.png": "", "c.png": "", "d.png": "ill", "e.png": "Background"
    }  # fmt: skip
    assert [rows["d.png"][name] for name in ("group", "study", "labeled_by")] == ["p1", "s1", "Ada"]
    output.replace(images / "manifest.csv")
    found = read_datalist(images, classes=("ill", "Background"), item_level="study")
    assert {item["id"]: item["label"] for item in found.items} == {
        "p1/s1": 0, "p1/s2": UNLABELED, "p2/s1": UNLABELED, "e.png": 1
    }  # fmt: skip


def test_a_report_of_a_study_refers_to_all_its_images_and_patients_have_none(tmp_path):
    pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")
    from pydicom import dcmread

    images = tmp_path / "images"
    images.mkdir()
    ids = {"PatientID": "P", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    for number in range(3):
        write_dicom(images / f"{number}.dcm", np.zeros((4, 4), np.uint8), **ids)
    here = session_of(images, tmp_path / "study")
    here.put_label(*here.items, "ill", who="Ada")
    counts, faults = label_reports(images, here.store.path, tmp_path / "reports")
    assert (dict(counts), faults) == ({"reported": 1, "of studies that are gone": 0}, [])
    (path,) = (tmp_path / "reports").iterdir()
    (evidence,) = dcmread(path).CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    referred = {str(one.ReferencedSOPInstanceUID) for one in series.ReferencedSOPSequence}
    assert referred == {str(dcmread(file).SOPInstanceUID) for file in images.iterdir()}
    patients = session_of(images, tmp_path / "patient", "patient")
    patients.put_label(*patients.items, "ill")
    with pytest.raises(ValueError, match="write_sr: expected labels of images, series or studies, got those of"):
        label_reports(images, patients.store.path, tmp_path / "others")


def test_scores_know_which_items_have_other_images_now(tmp_path):
    items = [{"id": "p1", "images": ("/a/1.png", "/a/2.png")}, {"id": "p2", "images": ("/a/3.png",)}]
    rows = np.arange(4, dtype=np.float32).reshape(2, 2)
    scores = Scores.empty("").with_more(("p1", "p2"), rows, np.zeros((0, 2, 0)), {}, made_of=digests(items))
    loaded = Scores.load(tmp_path, "") if scores.save(tmp_path) else None
    assert loaded.made_of == digests(items)
    moved = [{**item, "images": tuple(f"/b{path[2:]}" for path in item["images"])} for item in items]
    assert loaded.changed(digests(moved)) == set()
    more = [{**items[0], "images": (*items[0]["images"], "/a/9.png")}, items[1]]
    assert loaded.changed(digests(more)) == {"p1"}
    kept = loaded.without({"p1"})
    assert (kept.ids, kept.features.tolist(), kept.made_of) == (("p2",), [[2, 3]], {"p2": digests(items)["p2"]})
    assert digests([{"id": "a.png", "image": "a.png"}]) == {}


@pytest.fixture(scope="module")
def ears(tmp_path_factory):
    """Return the folder of phantoms of several images a patient, of which one cannot be read."""
    folder = tmp_path_factory.mktemp("ears") / "images"
    make_phantom("otoscopy", folder, items=24)
    with (folder / "manifest.csv").open(newline="") as file:
        broken = folder / next(csv.DictReader(file))["file"]
    broken.write_bytes(broken.read_bytes()[:100])
    return folder


@pytest.fixture(scope="module")
def trained(ears, tmp_path_factory):
    """Return a session of patients with one stage, and the model's classes before it by the live head."""
    output_dir = tmp_path_factory.mktemp("trained") / "output"
    bundle = make_bundle(ears, output_dir, **{"datalist#item_level": "patient"})
    here = AnnotationSession(AnnotatedChain(bundle, output_dir), ears)
    here.chain.score(list(here.items.values()))
    for number, key in enumerate(sorted(here.items)[:5]):
        here.store.put(key, here.classes[number % 2], who="Ada")
    here.chain.learn(here._usable, here.labels)
    live = here.chain.live
    features, ids = here.chain.scores.features, here.chain.scores.ids
    here.train()
    return here, live, dict(zip(ids, features, strict=True))


def test_the_live_head_is_that_of_mean_features(trained, ears):
    here, live, features = trained
    single = make_bundle(ears, here.chain.output_dir)
    usable = {item["image"]: item for item in single.examine(find_items(ears, spatial_dims=2))[0]}
    rows = dict(zip(usable, single.embed(list(usable.values()), [])[0], strict=True))
    of_items = [[rows[path].astype(np.float64) for path in here.images(key) if path in rows] for key in live.ids]
    means = np.stack([np.mean(some, axis=0) for some in of_items]).astype(np.float32)
    assert sum(map(len, map(here.images, live.ids))) == len(rows) + 1  # the one that cannot be read is left out
    np.testing.assert_allclose(np.stack([features[key] for key in live.ids]), means, rtol=1e-5, atol=1e-5)
    oracle = single.live_head(live.ids, means)
    assert isinstance(oracle, LiveHead)
    groups = {key: item["group"] for key, item in here.items.items()}
    expected = oracle.solve({key: here.classes.index(label) for key, label in here.labels.items()}, groups)
    np.testing.assert_allclose(live.probabilities, expected.probabilities, atol=1e-4)


def test_the_chain_is_of_patients_and_predicts_what_it_has_learned(trained, ears, tmp_path):
    here, _, _ = trained
    chain = json.loads((here.chain.path / "chain.json").read_text())
    assert chain["settings"]["item_level"] == "patient"
    assert chain["stages"][0]["labeled"] == 5
    scores = here.chain.scores
    assert (len(scores.ids), here.chain.unreadable) == (len(here.items), {})
    for key in list(here.items)[:2]:
        found = [one["score"] for one in here.predict(*here.images(key))["prediction"]]
        np.testing.assert_allclose(found, scores.probabilities[scores.places[key]], atol=1e-3)
    output = tmp_path / "predictions.csv"
    bundle, options = str(here.chain.bundle.root), ["--set", "spatial_size=[64,64]"]
    files = ["--ckpt", str(here.chain.path / "model.pt"), "--input", str(ears), "--output", str(output)]
    main(["predict", "--bundle", bundle, *files, *options])
    with output.open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert rows.keys() == here.items.keys()
    name = f"probability_{here.classes[0]}"
    np.testing.assert_allclose(
        [float(rows[key][name]) for key in scores.ids], scores.probabilities[:, 0], atol=1e-3
    )  # fmt: skip


def test_refuses_a_chain_of_another_level_and_a_training_step_by_step(trained, ears):
    here, _, _ = trained
    with pytest.raises(ValueError, match=r"output_dir: expected a chain of the item_level 'image', got 'patient' in"):
        AnnotatedChain(make_bundle(ears, here.chain.output_dir), here.chain.output_dir)
    with pytest.raises(ValueError, match=r"item_level: expected 'image' to train a network step by step, got"):
        make_bundle(ears, here.chain.output_dir, overlays=["scratch.json"], **{"datalist#item_level": "patient"})
    with pytest.raises(ValueError, match=r"item_level: expected one of .*, got 'pateint'\. Did you mean 'patient'\?"):
        make_bundle(ears, here.chain.output_dir, **{"datalist#item_level": "pateint"})


def test_an_item_with_more_images_is_scored_anew(trained):
    here, _, _ = trained
    first, second, *others = here.items.values()
    more = [{**first, "images": (*first["images"], *second["images"])}, second, *others]
    before = here.chain.scores
    assert here.chain.knows(list(here.items.values()))
    assert not here.chain.knows(more)
    here.chain.score(more)
    after = here.chain.scores
    assert here.chain.knows(more)
    rows = [scores.features[scores.places[first["id"]]] for scores in (before, after)]
    assert not np.allclose(*rows)
    np.testing.assert_array_equal(*[scores.features[scores.places[second["id"]]] for scores in (before, after)])
    seen = [before.features[before.places[item["id"]]] for item in (first, second)]
    counts = [len(here.chain.bundle.examine([item])[0][0]["images"]) for item in (first, second)]
    np.testing.assert_allclose(rows[1], np.average(seen, axis=0, weights=counts), rtol=1e-4, atol=1e-4)


def test_a_worklist_names_items(images, tmp_path):
    chain = QuietChain(tmp_path / "output")
    chain.bundle.item_level = "study"
    here = WorklistSession(chain, images, ["p1/s1", "p9/s9"])
    assert (list(here.items), here.missing) == (["p1/s1"], 1)
    with pytest.raises(ValueError, match=r"worklist: expected studies of .*, got none of 1"):
        WorklistSession(chain, images, ["a.png"])
