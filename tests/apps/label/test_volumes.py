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

import nibabel
import numpy as np
import pytest
from dicom_files import write_series
from label_browser import ForkedServer, Page, needs_browser
from label_server import ROOT, needs_monai_label

from monai_weckd.data.image_reader import read_image

pytestmark = [needs_browser, needs_monai_label]

LPS = np.diag([-1.0, -2.0, 1.0, 1.0])


def test_volumes_are_scrolled_and_windowed(forks, tmp_path, browser):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    rng = np.random.default_rng(0)
    studies = tmp_path / "studies"
    write_series(
        studies / "series", rng.integers(-900, 900, (20, 15, 7)).astype(np.int16), LPS, WindowCenter=40, WindowWidth=400
    )
    nibabel.save(nibabel.Nifti1Image(rng.normal(size=(15, 20, 9)).astype(np.float32), LPS), studies / "n.nii.gz")
    bundle = ROOT / "bundles" / "brain_mri_3d_chain_classification"
    with ForkedServer(forks, studies, tmp_path / "output", bundle=bundle) as server:
        page = Page(browser, server.url)
        for _ in range(2):
            path = studies / page.name
            array = read_image(path)[0][0]
            slices = array.shape[2]

            def shows(number, array=array):
                center, width = (float(page.find(name).get_attribute("value")) for name in ("center", "width"))
                gray = np.clip((array[..., number].T - center) / width * 255 + 127.5, 0, 255)
                found = page.pixels()[..., 0]
                return found.shape == gray.shape and np.abs(found - gray).max() <= 0.5001

            middle = slices // 2
            page.wait(lambda shows=shows, middle=middle: shows(middle))
            if path.is_dir():
                assert page.run("return [center.value, width.value]") == ["40", "400"]
            assert (page.text("edge-left"), page.text("edge-top")) == ("R", "A")
            aspect = page.run("const box = picture.getBoundingClientRect(); return box.width / box.height")
            assert aspect == pytest.approx(array.shape[0] / array.shape[1] / 2, rel=0.02)

            # keys, wheel, slider
            page.key(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_UP)
            page.wait(lambda shows=shows, middle=middle: shows(middle + 1))
            assert page.text("slice-text") == f"{middle + 2} of {slices}"
            origin = ScrollOrigin.from_element(page.find("picture"))
            ActionChains(browser).scroll_from_origin(origin, 0, 100).perform()
            page.wait(lambda shows=shows, middle=middle: shows(middle + 2))
            page.find("slice").send_keys(Keys.HOME)
            page.wait(lambda shows=shows: shows(0))

            # window: sliders by keys, drag, reset
            before = page.pixels()
            for name in ("center", "width"):
                page.find(name).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
            page.wait(lambda shows=shows, before=before: shows(0) and (page.pixels() != before).any())
            values = page.run("return [Number(center.value), Number(width.value)]")
            picture = page.find("picture")
            ActionChains(browser).click_and_hold(picture).move_by_offset(-40, 30).release().perform()
            page.wait(lambda shows=shows: shows(0))
            center, width = page.run("return [Number(center.value), Number(width.value)]")
            assert center > values[0]
            assert width < values[1]
            page.find("reset").click()
            page.wait(lambda before=before: (page.pixels() == before).all())

            # a preset, and the slices beside this one
            auto = server.ask("GET", f"/weckd/image/{page.name}").json()["auto"]
            page.run("document.querySelector('#presets button').click()")
            page.wait(lambda shows=shows: shows(0))
            window = page.run("return [Number(center.value), Number(width.value)]")
            assert window == pytest.approx([auto["center"], auto["width"]])
            page.wait(lambda: page.run("return after.naturalWidth") > 0)
            assert (page.find("before").is_displayed(), page.find("after").is_displayed()) == (False, True)
            page.label(0)
        assert page.name == "No image left"

        # a window stays after undo
        page.key("u")
        page.wait(lambda: page.is_ready)
        assert page.run("return [Number(center.value), Number(width.value)]") == window
        page.wait(lambda: shows(middle))
        assert page.console() == []


@pytest.mark.slow
def test_a_slice_that_cannot_be_drawn_can_be_asked_for_again(forks, tmp_path, browser):
    studies = tmp_path / "studies"
    studies.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(9, 8, 5)), LPS), studies / "n.nii.gz")
    server = ForkedServer(
        forks, studies, tmp_path / "output", bundle=ROOT / "bundles/brain_mri_3d_chain_classification"
    )
    with server:
        page = Page(browser, server.url)
        before = page.pixels()
    page.key("\ue015")
    page.wait(lambda: page.error == "The server does not answer. Check that it runs, then retry.")
    with server:
        page.find("retry").click()
        page.wait(lambda: (page.pixels() != before).any())
        page.wait(lambda: page.error == "")
