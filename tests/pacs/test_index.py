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

from pathlib import Path

import pytest
from fake_dicomweb import FakeDicomweb

pytest.importorskip("dicomweb_client", reason="DICOMweb wants the extra 'pacs'")

from monai_weckd.cli.main import main

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "brain_mri_chain_classification"


def test_series_of_a_server_are_there_to_label(fake: FakeDicomweb, waits, tmp_path, monkeypatch):
    sessions = []
    monkeypatch.setattr("monai_weckd.apps.label.server.serve", lambda session, **options: sessions.append(session))
    fake.fill(series=2, instances=2, PatientID="one")
    fake.fill(series=1, instances=1, PatientID="two")
    command = ["label", "--bundle", str(BUNDLE), "--studies", fake.url]
    command += ["--output_dir", str(tmp_path / "out"), "--filter", "Modality=OT"]
    assert main(command) == 0
    items = sessions[0].items
    assert set(items) == {f"{series}/{uid}.dcm" for _, series, uid in fake.objects}
    groups = {
        study: {items[f"{series}/{uid}.dcm"]["group"] for one, series, uid in fake.objects if one == study}
        for study, _, _ in fake.objects
    }
    first, second = groups.values()  # of one patient each, whose name is in none
    assert len(first) == len(second) == 1
    assert first != second
    asked = len(fake.requests)
    assert any("/instances/" in str(request) for request in fake.requests)
    assert main(command) == 0
    assert not any("/instances/" in str(request) for request in fake.requests[asked:])  # what is there stays
