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
from tests.images import app_image, busybox_image, edge_image, write_docker_archive
from tests.walkthrough import DOCS, Step, check_output, read_blocks, run_on_host, steps_of, write_files

pytestmark = pytest.mark.skipif(
    shutil.which("virsh") is None or shutil.which(QEMU) is None, reason=f"needs virsh and {QEMU}"
)
NOBODY = 65534
BOUND = 120.0
DOMAIN = """<domain type='qemu'>
  <name>guest</name> <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
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
    return run_virsh(home, f"create {home}/guest.xml", *commands, "destroy guest")


def run_virsh(home: Path, *commands: str) -> str:
    """What virsh says of some commands, in that folder."""
    as_nobody = ["env", f"--chdir={home}", "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    folders = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "XDG_CONFIG_HOME": None, "XDG_CACHE_HOME": None}
    words = [*as_nobody, "virsh", "--connect", f"qemu:///embed?root={home}", "; ".join(commands)]
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


# docs/libvirt.md. Its guest does not boot here: the disk that it would boot from is empty.
END = "end of a step"
NO_KVM = {"type='kvm'": "type='qemu'", "<cpu mode='host-passthrough'/>": "", "unit='MiB'>1024": "unit='MiB'>64"}


@pytest.fixture
def labels(home: Path) -> dict[str, str]:
    """The reader's files; the labels of the page, and what they are here."""
    run(["qemu-img", "create", "-q", "-f", "qcow2", home / "guest.qcow2", "1M"])
    os.chown(home / "guest.qcow2", NOBODY, NOBODY)
    labels = {}
    for name, old, image in (
        ("redis", "dpl-fb212d31a377", busybox_image()),
        ("counter", "dpl-988a244d09c7", app_image()),
    ):
        archive = write_docker_archive([image], home / f"{name}.tar", "oci")
        labels[old] = build_disk([archive], home / f"{name}.qcow2").index.label
    return labels


def test_the_page_can_be_followed(home: Path, labels: dict[str, str]) -> None:
    """libvirt lives as long as one virsh here, so what the page asks of it is asked in the end, all at once."""
    blocks = read_blocks(DOCS / "libvirt.md", labels | NO_KVM | {"/var/lib/libvirt/images": str(home)})
    write_files(blocks, home)
    steps = list(steps_of(blocks))
    for_virsh = [step for step in steps if step.command.startswith("virsh ")]
    for step in steps:
        if step not in for_virsh:
            check_output(step, run_on_host(step.command, home))
    for step, said in zip(for_virsh, ask_virsh(home, for_virsh), strict=True):
        check_output(step, said)


def ask_virsh(home: Path, steps: list[Step]) -> list[str]:
    """What virsh says of each step."""
    commands = [step.command.removeprefix("virsh ").strip() for step in steps]
    said = run_virsh(home, *(word for command in commands for word in (command, f"echo '{END}'")), "destroy guest")
    return said.split(f"{END}\n")[:-1]


def test_fw_cfg_says_the_same(home: Path, labels: dict[str, str]) -> None:
    """The page's other way to name the disks, in place of the first one."""
    blocks = read_blocks(DOCS / "libvirt.md", labels | NO_KVM)
    domain = next(block for block in blocks if block.name == "guest.xml")
    other = next(block for block in blocks if "type='fwcfg'" in block.text)
    whole = re.sub(r" *<sysinfo.*</sysinfo>\n", lambda _: other.text, domain.text, flags=re.DOTALL)
    (home / "guest.xml").write_text(whole.replace("<smbios mode='sysinfo'/>", ""))
    assert "validates" in run(["virt-xml-validate", home / "guest.xml", "domain"], with_stderr=True)
    said = run_virsh(home, "domxml-to-native qemu-argv --xml guest.xml")
    expected = f"name=opt/io.systemd.credentials/docker-preloader.expect,string={next(iter(labels.values()))}"
    assert expected in said
