"""`preloader libvirt-xml` and a real libvirt, which runs inside virsh, with folders of its own and as nobody."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from preloader_agent.host.disk import build_disk
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import run
from preloader_agent.host.vm.accelerator import QEMU
from tests.host.command import COMMAND, PYTHONPATH
from tests.images import busybox_image, edge_image, write_docker_archive

pytestmark = pytest.mark.skipif(
    shutil.which("virsh") is None or shutil.which(QEMU) is None, reason=f"needs virsh and {QEMU}"
)
NOBODY = 65534
BOUND = 120.0
DOMAIN = """<domain type='qemu'>
  <name>guest</name> <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <controller type='pci' model='pcie-root'/>
    {ports}
    <controller type='scsi' model='virtio-scsi'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""
PORT = "<controller type='pci' model='pcie-root-port'/>"
PORTS = 6  # libvirt puts its USB and SCSI controllers into two


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder for libvirt, as short as its sockets' names ask for."""
    with tempfile.TemporaryDirectory(prefix="dpl-virt-") as name:
        folder = Path(name)
        (folder / "guest.xml").write_text(
            DOMAIN.format(ports="<controller type='pci' model='pcie-root-port'/>" * PORTS)
        )
        os.chown(folder, NOBODY, NOBODY)
        yield folder


@pytest.fixture
def disks(home: Path) -> list[Path]:
    """Two of ours, and a third."""
    paths = []
    for number, image in enumerate((busybox_image(), edge_image())):
        archive = write_docker_archive([image], home / f"{number}.tar", "oci")
        build_disk([archive], home / f"a&b {number}.qcow2")
        paths.append(home / f"a&b {number}.qcow2")
    return paths


def virsh(home: Path, *commands: str) -> str:
    """What virsh says of some commands to a domain that lives as long as it."""
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    folders = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "XDG_CONFIG_HOME": None, "XDG_CACHE_HOME": None}
    script = "; ".join([f"create {home}/guest.xml", *commands, "destroy guest"])
    words = [*as_nobody, "virsh", "--connect", f"qemu:///embed?root={home}", script]
    return run(words, env=folders, timeout=BOUND, with_stderr=True)


def write_xml(home: Path, name: str, *args: str | Path) -> Path:
    path = home / name
    path.write_text(run([*COMMAND, "libvirt-xml", *args], env={"PYTHONPATH": PYTHONPATH}))
    return path


def test_libvirt_attaches_and_detaches_what_we_print(home: Path, disks: list[Path]) -> None:
    buses = ("virtio", "scsi")
    files = [
        write_xml(home, f"{bus}{number}.xml", "--bus", bus, disk) for bus in buses for number, disk in enumerate(disks)
    ]
    attach = [f"attach-device guest {file}" for file in files]
    said = virsh(
        home, *attach, "domblklist guest", "dumpxml guest", f"detach-device guest {files[3]}", "domblklist guest"
    )
    assert said.count("Device attached successfully") == len(files), said
    before, after = re.findall(r"^ *Target +Source\n-+\n(.*?)\n\n", said, re.MULTILINE | re.DOTALL)
    sources = [line.strip().partition(" ")[2].strip() for line in before.splitlines()]
    assert sorted(sources) == sorted(map(str, disks * 2))
    assert len(after.splitlines()) == len(files) - 1
    for disk in disks:
        assert said.count(f"<serial>{inspect_disk(disk).label}</serial>") == 2
    assert said.count("<readonly/>") == len(files)
    assert all(disk.stat().st_uid == os.geteuid() for disk in disks)


def test_two_domains_have_one_disk(home: Path, disks: list[Path]) -> None:
    """libvirt asks for <shareable/> only for a disk that is written."""
    xml = write_xml(home, "disk.xml", disks[0])
    second = (home / "guest.xml").read_text().replace("<name>guest", "<name>second")
    (home / "second.xml").write_text(second)
    commands = [f"create {home}/second.xml", f"attach-device guest {xml}", f"attach-device second {xml}"]
    said = virsh(home, *commands, "destroy second")
    assert said.count("Device attached successfully") == 2, said


def test_the_xml_is_what_libvirts_schema_allows(home: Path, disks: list[Path]) -> None:
    """The schema is that of a whole domain."""
    for bus in ("virtio", "scsi"):
        element = write_xml(home, "disk.xml", "--bus", bus, disks[0]).read_text()
        (home / "whole.xml").write_text(
            (home / "guest.xml").read_text().replace("<memballoon", f"{element}<memballoon")
        )
        assert "validates" in run(["virt-xml-validate", home / "whole.xml", "domain"], with_stderr=True)
