"""A real registry of the test's own, on loopback, with its content in a folder of its own."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self

from preloader_agent.host.run import find_tool, run, start
from tests.images.archive import Json
from tests.images.oci import OciLayout

if TYPE_CHECKING:
    from subprocess import Popen

START_BOUND = 30.0  # seconds; a start takes 0.1
POLL = 0.05
CONFIGURATION = """\
version: 0.1
log: {{level: info}}
storage:
  filesystem: {{rootdirectory: {folder}/content}}
  delete: {{enabled: true}}
http:
  addr: {host}
"""


class Registry:
    """A context manager; with `has_tls`, it proves who it is with `certificate`, which nobody else knows.

    With `users`, the lines of an htpasswd file, it lets nobody else in.
    """

    def __init__(self, folder: Path, *, has_tls: bool = False, users: str = "") -> None:
        self.folder = folder
        self.users = users
        self.has_tls = has_tls
        self.certificate = folder / "certificate.pem"
        self.host = f"127.0.0.1:{_free_port()}"
        self.log = folder / "log"
        self._process: Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = CONFIGURATION.format(folder=self.folder, host=self.host)
        if self.has_tls:
            self._make_certificate()
            configuration += f"  tls: {{certificate: {self.certificate}, key: {self.folder}/key.pem}}\n"
        if self.users:
            (self.folder / "users").write_text(self.users)
            configuration += f"auth:\n  htpasswd: {{realm: test, path: {self.folder}/users}}\n"
        (self.folder / "config.yml").write_text(configuration)
        with self.log.open("ab") as log:
            program = find_tool("docker-registry", "install docker-registry")
            self._process = start([program, "serve", self.folder / "config.yml"], log=log)
        self._wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def push(self, layout: OciLayout, top: Json, name: str, credentials: str = "") -> str:
        """Push a manifest, or an index with all that it names, byte by byte; returns the full name.

        `credentials` are USER:PASSWORD.
        """
        full = f"{self.host}/{name}"
        with TemporaryDirectory(dir=self.folder) as folder:
            # What skopeo calls a dir: an index, manifests and other blobs, told apart by their names.
            for digest, content in layout.blobs.items():
                Path(folder, digest.removeprefix("sha256:")).write_bytes(content)
                Path(folder, f"{digest.removeprefix('sha256:')}.manifest.json").write_bytes(content)
            Path(folder, "manifest.json").write_bytes(layout.blobs[top["digest"]])
            options = ["--all", "--preserve-digests", "--dest-tls-verify=false"]
            options += [f"--dest-creds={credentials}"] if credentials else []
            run(["skopeo", "copy", *options, f"dir:{folder}", f"docker://{full}"])
        return full

    def _make_certificate(self) -> None:
        files = ["-keyout", self.folder / "key.pem", "-out", self.certificate]
        subject = ["-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1"]
        run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *map(str, files)])

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_BOUND
        host, port = self.host.split(":")
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
                return
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(POLL)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
