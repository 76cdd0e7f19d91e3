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

"""Orthanc, a DICOM server, started for the tests, and reachable from this machine alone."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import requests

LOGIN = ("ada", "s3cret")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
# this version of Orthanc can listen on all interfaces only
LOOPBACK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
int bind(int socket, const struct sockaddr *address, socklen_t size) {
    int (*bind_next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    if (address->sa_family == AF_INET) ((struct sockaddr_in *)address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (address->sa_family == AF_INET6) ((struct sockaddr_in6 *)address)->sin6_addr = in6addr_loopback;
    return bind_next(socket, address, size);
}
"""


def missing() -> str:
    """Return why Orthanc cannot be started here, empty if it can."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None or not PLUGIN.exists():
        return "Orthanc and its plugin are not installed (apt-get install orthanc orthanc-dicomweb)"
    return "" if shutil.which("gcc") else "gcc is not installed, which keeps Orthanc to this machine"


class Orthanc:
    """One server with its storage in a folder; it may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shim = folder, folder / "loopback.so"
        (folder / "loopback.c").write_text(LOOPBACK)
        source = str(folder / "loopback.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(self.shim), source, "-ldl"], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/dicom-web"
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": dict([LOGIN]),
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
        environment = {**os.environ, "LD_PRELOAD": str(self.shim)}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, str(self.folder / "orthanc.json")], env=environment, stdout=log, stderr=log
            )
        while self.process.poll() is None:
            try:
                self.get("system")
                return
            except requests.ConnectionError:
                time.sleep(0.05)
        raise RuntimeError((self.folder / "log").read_text()[-2000:])

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def get(self, path: str):
        answer = requests.get(f"{self.root}/{path}", auth=LOGIN, timeout=200)
        answer.raise_for_status()
        return answer.json()

    def put(self, content: bytes) -> None:
        """Store a DICOM file as it is."""
        requests.post(f"{self.root}/instances", data=content, auth=LOGIN, timeout=200).raise_for_status()

    def contents(self) -> dict[str, bytes]:
        """Return all instances, by their UIDs."""
        found = {}
        for key in self.get("instances"):
            uid = self.get(f"instances/{key}")["MainDicomTags"]["SOPInstanceUID"]
            assert uid not in found
            found[uid] = requests.get(f"{self.root}/instances/{key}/file", auth=LOGIN, timeout=200).content
        return found

    def clear(self) -> None:
        for key in self.get("patients"):
            requests.delete(f"{self.root}/patients/{key}", auth=LOGIN, timeout=200).raise_for_status()
