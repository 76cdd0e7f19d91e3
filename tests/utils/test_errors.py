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

from monai_weckd.utils.errors import explaining_error


def test_the_error_that_explains_is_the_readers_not_the_decoders():
    decoder = ZeroDivisionError("inside")
    reader = ValueError("a.png: cannot be decoded")
    reader.__cause__ = decoder
    transform = RuntimeError("applying transform")
    transform.__cause__ = reader
    assert explaining_error(transform) is reader
    assert explaining_error(reader) is reader
    reader.__cause__, transform.__cause__ = None, decoder
    assert explaining_error(transform) is decoder
