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

import io
import json
import re
import tempfile
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import write_dicom
from label_server import SCRATCH, LabelServer, needs_monai_label
from PIL import Image

pytestmark = needs_monai_label

CLASSES = ["chronic_otitis_media", "earwax_plug", "myringosclerosis", "normal"]


@pytest.fixture(scope="module")
def studies(copy_ears, tmp_path_factory):
    """Return a folder with pictures, a NIfTI slice, a DICOM file and a broken picture."""
    folder = tmp_path_factory.mktemp("studies") / "images"
    copy_ears(folder, 48)
    rng = np.random.default_rng(0)
    nibabel.save(
        nibabel.Nifti1Image(rng.uniform(0, 255, (40, 50, 1)).astype(np.float32), np.eye(4)), folder / "n.nii.gz"
    )
    write_dicom(folder / "d.dcm", rng.integers(0, 255, (40, 50), dtype=np.uint16))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("server") / "output"


@pytest.fixture(scope="module")
def server(studies, output_dir):
    with LabelServer(studies, output_dir) as server:
        yield server


def label_next(server, count):
    for _ in range(count):
        found = server.ask("GET", "/weckd/next").json()["id"]
        label = found.split("/")[0] if "/" in found else "normal"
        assert server.ask("PUT", f"/weckd/label/{found}", json={"label": label}).status_code == 200


@pytest.fixture(scope="module")
def trained(server):
    """Return the server after two stages: one by this package's route, one by MONAI Label's."""
    label_next(server, 20)
    assert server.ask("POST", "/weckd/train").status_code == 202
    assert server.ask("POST", "/weckd/train").status_code == 409
    assert server.wait_for_stage()["training"]["error"] is None
    label_next(server, 8)
    assert server.ask("POST", "/train/chain").json()["status"] == "RUNNING"
    assert server.ask("POST", "/train/chain").status_code in (409, 429)
    assert server.wait_for_stage()["training"]["error"] is None
    return server


IMAGE = "normal/ear_0001_1.png"


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "message"),
    [
        ("POST", "/weckd/train", {}, 400, "labels: expected labels in two groups or more of at least two classes"),
        ("POST", "/train/chain", {}, 400, "labels: expected labels in two groups or more of at least two classes"),
        ("POST", "/train/other", {}, 404, "model: expected 'chain', got 'other'. There is no other."),
        ("POST", "/scoring/other", {}, 404, "method: expected 'chain', got 'other'"),
        ("POST", "/activelearning/random", {}, 404, "strategy: expected 'chain', got 'random'"),
        ("POST", f"/infer/other?image={IMAGE}", {}, 404, "model: expected 'chain', got 'other'"),
        ("POST", "/infer/chain", {}, 400, "Neither Image nor File"),
        ("POST", f"/infer/chain?image={IMAGE}", {}, 409, "model: expected a chain with a stage, got none yet."),
        ("GET", f"/weckd/predict/{IMAGE}", {}, 409, "model: expected a chain with a stage, got none yet."),
        ("POST", "/infer/chain?session_id=1", {}, 400, "session_id: expected none, got one. Upload the image as file."),
        ("POST", "/infer/chain?image=none.png", {}, 404, "id: expected an image in 'images', got 'none.png'."),
        ("POST", "/infer/chain?image=/etc/passwd", {}, 404, "id: expected an image in 'images', got '/etc/passwd'."),
        (
            "POST",
            f"/infer/chain?image={IMAGE}",
            {"data": {"params": "[1"}},
            400,
            "params: expected JSON, got something else (Expecting",
        ),
        ("POST", f"/infer/chain?image={IMAGE}", {"data": {"params": "[1]"}}, 400, "params: expected an object such as"),
        (
            "PUT",
            f"/weckd/label/{IMAGE}",
            {"json": {"label": "norml"}},
            400,
            "label: expected one of the 4 classes, got",
        ),
        ("PUT", f"/weckd/label/{IMAGE}", {"json": {"class": "normal"}}, 422, "body.label: Field required"),
        ("PUT", f"/weckd/label/{IMAGE}", {"data": "{"}, 422, "body"),
        ("PUT", "/weckd/label/none.png", {"json": {"label": "normal"}}, 404, "id: expected an image in 'images', got"),
        ("DELETE", f"/weckd/label/{IMAGE}", {}, 400, "id: expected an image with a label, got"),
        ("GET", "/weckd/next?count=0", {}, 400, "count: expected a number from 1 to 1000, got 0."),
        ("GET", "/weckd/image/../../etc/passwd", {}, 404, "Not Found"),
        ("GET", "/weckd/image/..%2F..%2Fetc%2Fpasswd", {}, 404, "id: expected an image in 'images', got '../../etc/"),
        ("GET", "/weckd/image/broken.png", {}, 400, "broken.png: cannot be decoded"),
        ("GET", f"/weckd/image/{IMAGE}/png?slice=3", {}, 400, "slice: expected a number from 0 to 0, got 3."),
        ("GET", "/datastore/image?image=none.png", {}, 404, "id: expected an image in 'images', got 'none.png'."),
        (
            "DELETE",
            f"/datastore/image?id={IMAGE}",
            {},
            400,
            "images: expected to be added and removed by hand",
        ),
        ("GET", f"/datastore/label?label={IMAGE}&tag=..", {}, 400, "tag: expected a word such as 'original', got '..'"),
        ("GET", "/proxy/dicom/studies", {}, 404, "Not Found"),
        ("GET", "/logs/", {}, 404, "Not Found"),
        ("GET", "/weckd/state", {"headers": {"Host": "example.org"}}, 400, "host: expected one of ['127.0.0.1'"),
        ("GET", "/weckd/state", {"headers": {"Origin": "http://example.org"}}, 403, "origin: expected a page of this"),
    ],
)
def test_a_wrong_request_is_answered_in_one_line(server, method, path, options, status, message):
    answer = server.ask(method, path, **options)
    assert answer.status_code == status
    assert message in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"normal", "label: expected JSON, got something else"),
        (b'{"label": "other"}', "label: expected one of the 4 classes, got 'other'."),
        (b'{"idx": 4}', "label: expected a class name, or an index below 4, got {'idx': 4}."),
        (b"[]", "label: expected a class name, or an index below 4, got []."),
    ],
)
def test_a_wrong_label_file_is_answered_in_one_line(server, content, message):
    answer = server.ask("PUT", f"/datastore/label?image={IMAGE}&tag=final", files={"label": ("l.json", content)})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(message)


def test_why_a_label_cannot_be_written_is_told(server, output_dir):
    blocked = output_dir / "labels.log"  # as a full disk does, which cannot be had here
    content = blocked.read_bytes() if blocked.exists() else None
    blocked.unlink(missing_ok=True)
    blocked.mkdir()
    answer = server.ask("PUT", f"/weckd/label/{IMAGE}", json={"label": "normal"})
    blocked.rmdir()
    if content is not None:
        blocked.write_bytes(content)
    assert answer.status_code == 500
    assert "labels.log: expected" in answer.json()["detail"]
    assert str(output_dir) not in answer.json()["detail"]
    assert server.ask("GET", f"/weckd/image/{IMAGE}").json()["label"] is None


def test_a_file_that_a_request_has_not_brought_is_left_alone(server, studies):
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write((studies / IMAGE).read_bytes())
        file.flush()
        answer = server.ask("POST", f"/infer/chain?image={file.name}")
        assert Path(file.name).is_file()
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith(f"id: expected an image in 'images', got '{file.name}'.")


def test_both_kinds_of_routes_see_one_store(server):
    files = {"label": ("label.json", b'{"idx": 3}'), "params": (None, '{"note": "sure"}')}
    answer = server.ask("PUT", f"/datastore/label?image={IMAGE}&tag=final", files=files)
    assert answer.json() == {"image": IMAGE, "label": IMAGE}
    assert server.ask("GET", f"/weckd/image/{IMAGE}").json()["label"] == "normal"
    kept = server.ask("GET", f"/datastore/label?label={IMAGE}&tag=final").json()
    assert (kept["label"], kept["idx"], kept["note"]) == ("normal", 3, "sure")
    counts = server.ask("GET", "/datastore/").json()
    assert (counts["total"], counts["completed"]) == (51, 1)
    assert server.state()["images"]["labeled"] == 1
    assert server.ask("DELETE", f"/weckd/label/{IMAGE}").json() == {"id": IMAGE, "label": None, "budget": 0}
    assert server.ask("GET", "/datastore/").json()["completed"] == 0
    assert server.ask("PUT", f"/weckd/label/{IMAGE}", json={"label": "normal"}).json()["budget"] == 1
    assert server.ask("DELETE", f"/datastore/label?id={IMAGE}&tag=final").status_code == 200
    assert server.state()["budget"] == 0


def test_images_are_shown(server, studies):
    found = server.ask("GET", f"/weckd/image/{IMAGE}").json()
    assert (found["kind"], found["slices"], found["label"]) == ("color", 1, None)
    answer = server.ask("GET", f"/weckd/image/{IMAGE}/png")
    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(Image.open(io.BytesIO(answer.content)), Image.open(studies / IMAGE).convert("RGB"))
    for name in ("n.nii.gz", "d.dcm"):
        assert server.ask("GET", f"/weckd/image/{name}").json()["kind"] == "gray"
        assert Image.open(io.BytesIO(server.ask("GET", f"/weckd/image/{name}/png").content)).mode == "L"
    assert server.ask("GET", f"/datastore/image?image={IMAGE}").content == (studies / IMAGE).read_bytes()


def test_stages_are_told_in_state_and_info(trained):
    state = trained.state()
    assert state["classes"] == CLASSES
    counts = {
        "total": 51,
        "labeled": 28,
        "set_aside": 0,
        "unlabeled": 22,
        "disputed": 0,
        "shared": 0,
        "waiting": 0,
        "unreadable": 1,
    }
    assert state["images"] == counts
    assert sum(state["labels"].values()) == state["budget"] == 28
    first, second = state["stages"]
    assert (first["stage"], first["teacher"], first["accepted"]) == (1, None, True)
    assert (second["stage"], second["teacher"]) == (2, 1)
    assert second["labeled"] > first["labeled"]
    assert second["metric"] == "val_macro_auc"
    assert 0 <= second["validation"]["balanced_accuracy"] <= 1
    assert state["training"] == {"running": False, "stage": 2, "epoch": 1, "epochs": 1, "error": None}
    info = trained.ask("GET", "/info/").json()
    assert info["labels"] == CLASSES
    assert info["models"]["chain"]["type"] == "classification"
    assert info["chain"]["stages"] == info["train_stats"]["chain"]["stages"] == state["stages"]
    assert trained.ask("GET", "/train/").json()["status"] == "DONE"
    log = trained.log.read_text()
    assert len(re.findall(r"stage 1 of \d+ accepted: ", log)) == 1
    assert "Logging file" not in log  # what MONAI says to each workflow without one


def test_one_image_by_its_id_by_upload_and_in_a_batch(trained, studies, output_dir):
    one = trained.ask("POST", f"/infer/chain?image={IMAGE}&output=json").json()
    assert [each["label"] for each in one["prediction"]] == CLASSES
    scores = np.array([each["score"] for each in one["prediction"]])
    assert scores.sum() == pytest.approx(1, abs=1e-5)
    assert one["label"] == CLASSES[one["idx"]] == CLASSES[scores.argmax()]
    assert one["entropy"] == pytest.approx(-(scores * np.log(scores)).sum())
    assert trained.ask("GET", f"/weckd/predict/{IMAGE}").json() == one
    with (studies / IMAGE).open("rb") as file:
        assert trained.ask("POST", "/infer/chain?output=json", files={"file": ("up.png", file)}).json() == one
    broken = trained.ask("POST", "/infer/chain?output=json", files={"file": ("up.png", b"nothing")})
    assert broken.status_code == 400
    assert ".png: expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM, got another" in broken.json()["detail"]
    refused = trained.ask("PUT", "/datastore/image?image=up", files={"file": ("up.png", b"nothing")})
    assert refused.json()["detail"].startswith("images: expected to be added and removed by hand, in the folder")
    assert list((output_dir / ".uploads").glob("*.png")) == []  # none of them is left behind
    query = {"params": '{"save_label": true, "label_tag": "../x"}'}
    refused = trained.ask("POST", f"/infer/chain?image={IMAGE}", data=query)
    assert refused.json()["detail"].startswith(
        "label_tag: expected a word for predictions such as 'original', got '../x'."
    )
    batch = trained.ask("POST", "/batch/infer/chain?images=all&run_sync=true", json={}).json()
    assert len(batch) == 51
    assert batch[IMAGE]["params"] == one
    assert "cannot be decoded" in batch["broken.png"]["error"]
    saved = trained.ask("GET", f"/datastore/label?label={IMAGE}&tag=original").json()
    assert saved == one


def test_the_next_sample_comes_with_a_reason(trained):
    found = trained.ask("GET", "/weckd/next?count=3").json()
    assert "margin" in found["reason"]
    assert len(found["more"]) == 2
    sample = trained.ask("POST", "/activelearning/chain", json={}).json()
    assert (sample["id"], sample["reason"]) == (found["id"], found["reason"])
    predicted = trained.ask("GET", f"/weckd/predict/{found['id']}").json()["prediction"]
    # embeddings are kept of images in bytes, which is half a step of 255 at most
    np.testing.assert_allclose([each["score"] for each in predicted], found["probabilities"], atol=2e-2)


def test_eight_clients_at_once_get_right_answers(trained):
    names = [
        f"{name}" for name in trained.ask("GET", "/datastore/?output=all").json()["objects"] if name != "broken.png"
    ]
    expected = {name: trained.ask("GET", f"/weckd/predict/{name}").json() for name in names[:8]}
    wrong = []

    def work(number):
        for name in [*expected] * 2:
            route = f"/weckd/predict/{name}" if number % 2 else f"/infer/chain?image={name}&output=json"
            answer = trained.ask("GET" if number % 2 else "POST", route)
            if answer.status_code != 200 or answer.json() != expected[name]:
                wrong.append((name, answer.status_code))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def begin_stage(server):
    assert server.ask("POST", "/weckd/train").status_code == 202
    while server.state()["training"]["epoch"] < 2:
        time.sleep(0.01)


def kept_labels(output_dir):
    return json.loads((output_dir / "labels.json").read_text())["labels"]


@pytest.mark.slow
def test_a_stage_is_stopped_and_a_killed_server_comes_back_with_all_labels(studies, tmp_path):
    output_dir = tmp_path / "output"
    with LabelServer(studies, output_dir, settings=SCRATCH) as server:
        label_next(server, 20)
        assert server.ask("POST", "/weckd/train").status_code == 202
        assert server.wait_for_stage()["training"]["error"] is None
        label_next(server, 3)
        before = server.state()
        labels = kept_labels(output_dir)
        prediction = server.ask("GET", f"/weckd/predict/{IMAGE}").json()
    long = [setting.replace("max_epochs=6", "max_epochs=3000") for setting in SCRATCH]
    with LabelServer(studies, output_dir, settings=long) as again:
        after = again.state()
        assert {**after, "training": None} == {**before, "training": None}
        assert kept_labels(output_dir) == labels
        assert again.ask("GET", f"/weckd/predict/{IMAGE}").json() == prediction
        assert again.ask("GET", "/weckd/next").json()["id"] not in labels
        # stopped by either route, in the middle of a stage of a thousand epochs
        for route, status in ("/weckd/train", 202), ("/train/", 200):
            assert again.ask("DELETE", route).status_code == 400
            begin_stage(again)
            assert again.ask("DELETE", route).status_code == status
            stopped = again.wait_for_stage()
            assert stopped["training"]["error"].startswith("stage: stopped after epoch ")
            assert again.ask("GET", "/train/").json()["status"] == "STOPPED"
            assert {**stopped, "training": None} == {**before, "training": None}
        # killed, while somebody goes on labeling
        begin_stage(again)
        label_next(again, 3)
        during = again.state()
        assert during["training"]["running"]
    with LabelServer(studies, output_dir, settings=SCRATCH) as last:
        after = last.state()
        assert {**after, "training": None} == {**during, "training": None}
        assert (after["budget"], len(after["stages"])) == (before["budget"] + 3, 1)
        assert last.ask("GET", f"/weckd/predict/{IMAGE}").json() == prediction
        assert last.ask("POST", "/weckd/train").status_code == 202
        after = last.wait_for_stage()
        assert (len(after["stages"]), after["training"]["error"]) == (2, None)
        assert len(kept_labels(output_dir)) == after["budget"] == during["budget"]
