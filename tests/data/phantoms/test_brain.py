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

from monai_weckd.data.phantoms.brain import scan_slice
from monai_weckd.data.phantoms.head import Head, head_pose
from monai_weckd.data.phantoms.items import PhantomItem


def test_every_slice_of_a_patient_shows_the_tumor():
    item = PhantomItem("brain_mri", 0, "meningioma", "patient_0003", 3, 0)
    for number in range(12):
        rngs = [np.random.default_rng([5, number]) for _ in range(2)]
        head = Head.draw("meningioma", rngs[0])
        frame, shift = head_pose(rngs[0])
        center = (frame @ head.lesion.center + shift) * [-1, -1, 1]
        for index in range(4):
            scan = scan_slice("meningioma", np.random.default_rng([5, number]), item.of_item(), index)
            normal = np.cross(scan.orientation[:3], scan.orientation[3:])
            assert abs(normal @ (center - scan.position)) < 0.65 * head.lesion.radius
