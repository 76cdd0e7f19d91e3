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

"""One label for all images of a patient or study, by REST and on the page."""

from __future__ import annotations

import io

import nibabel
import numpy as np
import pytest
from label_browser import ForkedServer, Page, needs_browser
from label_server import ROOT, SMALL, needs_monai_label
from PIL import Image

from monai_weckd.data.image_reader import read_image
from monai_weckd.data.phantoms import make_phantom

pytestmark = needs_monai_label

PATIENTS = ("--set", "datalist#item_level=patient")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Return a folder of patients with several images, of which one cannot be read."""
    folder = tmp_path_factory.mktemp("photos") / "images"
    make_phantom("otoscopy", folder, items=30)
    rows = (folder / "manifest.csv").read_text().splitlines(keepends=True)
    (folder / "manifest.csv").write_text("".join([*rows, "broken.png,,ear_0001,train\n"]))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture(scope="session")
def item_server(forks, photos, tmp_path_factory):
    """Return a server of patients, which the tests of this file share."""
    output = tmp_path_factory.mktemp("patients") / "output"
    with ForkedServer(forks, photos, output, settings=(*SMALL, *PATIENTS)) as server:
        yield server


def test_patients_are_labeled_trained_and_predicted(item_server, photos):
    ask = item_server.ask
    state = item_server.state()
    total = state["images"]["total"]
    assert (state["item_level"], 0 < total < 30) == ("patient", True)
    first = ask("GET", "/weckd/next").json()["id"]
    found = ask("GET", f"/weckd/image/{first}").json()
    assert (found["image"], found["images"] > 1, found["label"]) == (0, True, None)
    for number in range(found["images"]):
        one = ask("GET", f"/weckd/image/{first}?image={number}").json()
        content = ask("GET", f"/weckd/image/{first}/png?image={number}").content
        assert np.array_equal(Image.open(io.BytesIO(content)), Image.open(photos / one["file"]))
    answer = ask("GET", f"/weckd/image/{first}?image={found['images']}")
    assert (answer.status_code, answer.json()["detail"][:32]) == (400, "image: expected a number from 0 ")
    for number, key in enumerate(sorted(ask("GET", "/datastore/?output=all").json()["objects"])[:5]):
        label = state["classes"][number % 2]
        assert ask("PUT", f"/weckd/label/{key}", json={"label": label}).status_code == 200
    assert ask("POST", "/weckd/train").status_code == 202
    state = item_server.wait_for_stage()
    assert (state["training"]["error"], state["stages"][0]["labeled"], state["budget"]) == (None, 5, 5)
    shown = ask("GET", "/weckd/map").json()
    assert (len(shown["ids"]), shown["item_level"]) == (total, "patient")
    mine = ask("GET", f"/weckd/predict/{first}").json()
    assert ask("POST", f"/infer/chain?image={first}&output=json").json() == mine
    with (photos / found["file"]).open("rb") as file:  # an upload is one image
        upload = ask("POST", "/infer/chain?output=json", files={"file": file})
    assert upload.json()["prediction"] != mine["prediction"]
    small = ask("GET", f"/weckd/thumbnail/{first}").content
    assert max(Image.open(io.BytesIO(small)).size) == 128
    manifest = {"name": "m.csv", "text": f"file,label\n{found['file']},{state['classes'][0]}\n"}
    preview = ask("POST", "/weckd/labels", json=manifest).json()
    assert preview["new"] + preview["same"] + len(preview["conflicts"]) == 1
    answer = ask("GET", "/datastore/dataset")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(
        "datastore: expected single images for an archive, got all images of each"
    )
    path = ask("POST", "/activelearning/chain").json()["path"]
    assert path.endswith(".png")


@needs_browser
def test_one_key_labels_a_patient_whose_images_are_seen_one_by_one(item_server, photos, browser):
    from selenium.webdriver import Keys

    page = Page(browser, item_server.url)
    assert page.run("return document.querySelector('a[href=explore]:last-of-type').textContent") == "All patients"
    page.wait(lambda: "patients labeled" in page.text("labeled-text"))
    name = page.name
    count = item_server.ask("GET", f"/weckd/image/{name}").json()["images"]
    assert page.text("image-text") == f"1 of {count}"

    def shows(number):
        file = item_server.ask("GET", f"/weckd/image/{name}?image={number}").json()["file"]
        found, expected = page.pixels(), np.asarray(Image.open(photos / file).convert("RGB"))
        return page.text("file") == file and found.shape == expected.shape and np.array_equal(found, expected)

    page.wait(lambda: shows(0))
    for number in range(1, count):
        page.key(Keys.ARROW_RIGHT)
        page.wait(lambda number=number: page.text("image-text") == f"{number + 1} of {count}" and shows(number))
    page.key(Keys.ARROW_RIGHT)  # there is none after the last
    page.key(Keys.PAGE_UP)
    page.wait(lambda: shows(count - 2))
    before = item_server.state()["images"]["labeled"]
    page.label(1)
    page.wait(lambda: item_server.state()["images"]["labeled"] == before + 1)
    page.key("u")
    page.wait(lambda: page.name == name and page.is_ready)
    # an image that cannot be read says so, and the patient can be labeled
    page.driver.get(f"{item_server.url}/explore")
    page.wait(lambda: page.text("list-title") == "Patients")
    item_server.ask("POST", "/weckd/queue", json={"ids": ["ear_0001"]}, headers={"X-Weckd-Person": "Ada"})
    page = Page(browser, item_server.url)
    page.wait(lambda: page.is_ready)
    for _ in range(3):
        if page.name != "ear_0001":
            page.key("s")
            page.wait(lambda: page.is_ready)
    assert page.name == "ear_0001"
    page.find("image").send_keys(Keys.HOME)
    page.wait(lambda: page.text("blank").startswith("This image cannot be read, and is left out."))
    page.find("screen").click()
    page.key(Keys.ARROW_RIGHT)
    page.wait(lambda: page.find("frame").is_displayed())
    assert page.error == ""
    assert page.console() == []


@needs_browser
@pytest.mark.slow
def test_a_study_of_volumes_is_scrolled_volume_by_volume(forks, tmp_path, browser):
    from selenium.webdriver import Keys

    rng, studies = np.random.default_rng(0), tmp_path / "studies"
    studies.mkdir()
    for name, slices in (("a", 3), ("b", 4), ("c", 5)):
        volume = nibabel.Nifti1Image(rng.normal(size=(9, 8, slices)).astype(np.float32), np.diag([-1.0, -1, 1, 1]))
        nibabel.save(volume, studies / f"{name}.nii.gz")
    (studies / "manifest.csv").write_text("file,label,group,study\na.nii.gz,,p,1\nb.nii.gz,,p,1\nc.nii.gz,,p,2\n")
    bundle = ROOT / "bundles" / "brain_mri_3d_chain_classification"
    settings = ("--set", "datalist#item_level=study")
    with ForkedServer(forks, studies, tmp_path / "output", bundle=bundle, settings=settings) as server:
        page = Page(browser, f"{server.url}")
        while page.name != "p/1":
            page.label(0)

        def is_at(file, number):
            array = read_image(studies / file)[0][0]
            center, width = (float(page.find(name).get_attribute("value")) for name in ("center", "width"))
            gray = np.clip((array[..., number].T - center) / width * 255 + 127.5, 0, 255)
            found = page.pixels()[..., 0]
            return page.text("file") == file and found.shape == gray.shape and np.abs(found - gray).max() <= 0.5001

        page.wait(lambda: is_at("a.nii.gz", 1))
        for keys, file, number in (
            ([Keys.ARROW_RIGHT], "a.nii.gz", 2),
            ([Keys.ARROW_RIGHT], "b.nii.gz", 0),
            ([Keys.ARROW_LEFT], "a.nii.gz", 2),
            ([Keys.PAGE_DOWN], "b.nii.gz", 2),
        ):
            page.key(*keys)
            page.wait(lambda file=file, number=number: is_at(file, number))
        assert (page.text("image-text"), page.text("slice-text")) == ("2 of 2", "3 of 4")
        assert page.console() == []
