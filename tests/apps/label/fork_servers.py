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

"""Import once what a label server needs, then fork one for each line of arguments."""

from __future__ import annotations

import json
import os
import signal
import sys

import torch

import monai_weckd.annotation
from monai_weckd.apps.label import server
from monai_weckd.cli.main import main

os.environ.update(server._SETTINGS)
server.register_missing()

import monai_weckd.apps.label.main  # noqa: E402
import monai_weckd.apps.label.page  # noqa: E402, F401

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
torch.set_num_threads(1)  # a fork has none of its parent's other threads
sys.stdout.write("ready\n")
sys.stdout.flush()
for line in sys.stdin:
    log, *arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os._exit(main(arguments))
    sys.stdout.write(f"{child}\n")
    sys.stdout.flush()
