"""The plan of a machine: QEMU's command line, what makes its files, and what is looked at before."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preloader_agent.errors import InvalidDisk, InvalidValue, PreloaderError, ToolMissing
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import find_tool, run
from preloader_agent.host.vm import firmware
from preloader_agent.host.vm.accelerator import QEMU, choose_accelerator
from preloader_agent.host.vm.config import Forward, SharedFolder, UserNetwork, VmConfig
from preloader_agent.host.vm.diskfile import DiskFile, device_id, read_disk_file, read_disk_files
from preloader_agent.host.vm.files import VmFiles
from preloader_agent.host.vm.firmware import Firmware, find_firmware
from preloader_agent.host.vm.parts import Parts, find_parts
from preloader_agent.host.vm.plan import VmPlan, plan_machine
from tests.host.conftest import convert_to_raw
from tests.images import Layout

TCG = choose_accelerator(kvm=False, qemu=(7, 2))
PARTS = Parts(TCG, "qcow2")
FILES = VmFiles(Path("/run/vm"))
GUEST = VmConfig.of_guest(Path("/guest"))
IMAGE = VmConfig(root_disk=Path("/image.raw"))
DISKS = (
    DiskFile(Path("/disks/a,b.qcow2"), "dpl-a", "qcow2", "dpl-a"),
    DiskFile(Path("/disks/b.raw"), "dpl-b", "raw", "dpl-b"),
)
WITH_DISKS = replace(GUEST, disks=tuple(disk.path for disk in DISKS))


def plan_of(config: VmConfig = GUEST, parts: Parts = PARTS, files: VmFiles = FILES) -> VmPlan:
    return plan_machine(config, parts, files)


def values_of(plan: VmPlan, option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(plan.command) if name == option]


def nodes_of(plan: VmPlan) -> dict[str, dict[str, Any]]:
    nodes = map(json.loads, values_of(plan, "-blockdev"))
    return {node["node-name"]: node for node in nodes}


def devices_of(plan: VmPlan, driver: str) -> list[str]:
    return [device for device in values_of(plan, "-device") if device.split(",")[0] == driver]


# --- what every machine has ---


def test_command_has_what_every_guest_needs() -> None:
    plan = plan_of()
    assert values_of(plan, "-kernel") == ["/guest/vmlinuz"]
    assert values_of(plan, "-initrd") == ["/guest/initrd"]
    assert "root=LABEL=guest-root" in values_of(plan, "-append")[0]
    assert values_of(plan, "-accel") == ["tcg,thread=single,tb-size=128"]
    assert values_of(plan, "-serial") == ["file:/run/vm/console.log"]
    assert values_of(plan, "-display") == ["none"]
    assert list(nodes_of(plan)) == ["root"]
    assert "-nodefaults" in plan.command
    assert not any("net" in word for word in plan.command)
    assert values_of(plan, "-smbios") == []


def test_every_guest_has_both_channels_and_a_monitor_for_others() -> None:
    plan = plan_of(files=VmFiles(Path("/run/a,b")))
    sockets = [
        f"socket,id={name},path=/run/a,,b/{name},server=on,wait=off" for name in ("qmp", "qmp2", "agent", "control")
    ]
    assert values_of(plan, "-chardev") == sockets
    assert values_of(plan, "-mon") == ["chardev=qmp,mode=control", "chardev=qmp2,mode=control"]
    assert devices_of(plan, "virtserialport") == [
        "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        "virtserialport,chardev=control,name=org.docker-preloader.0",
    ]


def test_sockets_and_logs_are_where_the_user_wants_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(GUEST, qmp=Path("qmp"), control=Path("/control"), console_log=Path("log"))
    plan = plan_of(config, files=VmFiles.of(config, Path("/run/vm")))
    paths = [value.split(",")[2] for value in values_of(plan, "-chardev")]
    assert paths == ["path=/run/vm/qmp", f"path={tmp_path}/qmp", "path=/run/vm/agent", "path=/control"]
    assert values_of(plan, "-serial") == [f"file:{tmp_path}/log"]


def test_the_users_own_options_come_last() -> None:
    assert plan_of(replace(GUEST, qemu_args=("-name", "mine"))).command[-2:] == ["-name", "mine"]


# --- the root disk, and how it boots ---


def test_the_root_disk_is_an_overlay_that_is_thrown_away() -> None:
    plan = plan_of(IMAGE, PARTS._replace(root_format="raw"))
    node = nodes_of(plan)["root"]
    assert (node["driver"], node["file"]["filename"]) == ("qcow2", "/run/vm/root.qcow2")
    assert node["cache"] == node["file"]["cache"] == {"no-flush": True}
    [making] = plan.files
    assert making.path == FILES.overlay
    assert making.command[-5:] == ["-F", "raw", "-b", "/image.raw", "/run/vm/root.qcow2"]


def test_the_root_disk_is_written_to_for_good() -> None:
    plan = plan_of(replace(IMAGE, snapshot=False), PARTS._replace(root_format="raw"))
    file = {"driver": "file", "filename": "/image.raw"}
    assert nodes_of(plan)["root"] == {"driver": "raw", "node-name": "root", "file": file}
    assert plan.files == ()


def test_an_image_boots_by_its_own_boot_loader_and_nothing_else_does() -> None:
    plan = plan_of(replace(IMAGE, network=UserNetwork()))
    assert not {"-kernel", "-initrd", "-append"} & set(plan.command)
    assert values_of(plan, "-boot") == ["strict=on"]
    assert devices_of(plan, "virtio-blk-pci") == ["virtio-blk-pci,drive=root,serial=root,bootindex=0"]
    assert "graphics=off" in values_of(plan, "-machine")[0]


def test_uefi_has_its_code_and_a_copy_of_its_variables() -> None:
    found = Firmware(Path("/fw/code"), "qcow2", Path("/fw/variables"), "raw")
    plan = plan_of(replace(IMAGE, firmware="uefi"), PARTS._replace(firmware=found))
    nodes = nodes_of(plan)
    assert (nodes["uefi"]["driver"], nodes["uefi"]["read-only"]) == ("qcow2", True)
    assert (nodes["variables"]["driver"], nodes["variables"]["file"]["filename"]) == ("raw", "/run/vm/variables")
    assert "pflash0=uefi,pflash1=variables" in values_of(plan, "-machine")
    assert plan.files[-1].command[-2:] == ["/fw/variables", "/run/vm/variables"]


def test_a_window_has_a_keyboard_and_the_console_can_be_a_terminal() -> None:
    window = plan_of(replace(IMAGE, has_graphics=True))
    assert "-display" not in window.command
    assert devices_of(window, "VGA")
    assert "i8042=off" not in values_of(window, "-machine")[0]
    terminal = plan_of(replace(IMAGE, is_interactive=True))
    assert values_of(terminal, "-chardev")[0].startswith("stdio,id=console,mux=on,signal=off,logfile=/run/vm/")
    assert values_of(terminal, "-serial") == ["chardev:console"]


# --- disks ---


def test_cold_disks_are_read_only_and_have_ports_of_their_own() -> None:
    plan = plan_of(replace(WITH_DISKS, spare_ports=7), PARTS._replace(disks=DISKS))
    _, *nodes = nodes_of(plan).values()
    _, *devices = devices_of(plan, "virtio-blk-pci")
    ports = devices_of(plan, "pcie-root-port")
    assert [node["read-only"] for node in nodes] == [True, True]
    assert [node["driver"] for node in nodes] == ["qcow2", "raw"]
    assert nodes[0]["file"]["filename"] == "/disks/a,b.qcow2"
    assert devices[0] == "virtio-blk-pci,id=dpl-a,drive=dpl-a-node,bus=port0,addr=0x0,serial=dpl-a"
    assert devices[1].endswith("bus=port1,addr=0x0,serial=dpl-b")
    assert ports[0] == "pcie-root-port,id=port0,chassis=1,addr=0x10.0x0,multifunction=on"
    assert ports[8] == "pcie-root-port,id=port8,chassis=9,addr=0x11.0x0,multifunction=on"


def test_disks_on_virtio_scsi_need_no_ports() -> None:
    config = replace(WITH_DISKS, disk_interface="virtio-scsi", empty_disks=(1,))
    plan = plan_of(config, PARTS._replace(disks=DISKS))
    assert devices_of(plan, "pcie-root-port") == []
    assert devices_of(plan, "virtio-scsi-pci") == ["virtio-scsi-pci,id=scsi"]
    assert devices_of(plan, "scsi-hd") == [
        f"scsi-hd,id={name},drive={name}-node,bus=scsi.0,serial={name}" for name in ("dpl-a", "dpl-b", "empty0")
    ]


def test_empty_disks_are_made_and_thrown_away() -> None:
    plan = plan_of(replace(GUEST, empty_disks=(5_000_000_000, 1 << 20)))
    assert [making.command[-2:] for making in plan.files[1:]] == [
        ["/run/vm/empty0.qcow2", "5000000000"],
        ["/run/vm/empty1.qcow2", "1048576"],
    ]
    assert nodes_of(plan)["empty1-node"]["cache"] == {"no-flush": True}
    assert devices_of(plan, "virtio-blk-pci")[1] == "virtio-blk-pci,id=empty0,drive=empty0-node,serial=empty0"


def test_a_disk_is_named_by_its_label_whatever_its_file_is_called(disks: dict[Layout, Path], tmp_path: Path) -> None:
    label = inspect_disk(disks["old"]).label
    link = tmp_path / "any name.qcow2"
    link.symlink_to(disks["old"])
    assert read_disk_files([link]) == (DiskFile(link, label, "qcow2", label),)
    assert read_disk_file(convert_to_raw(disks["oci"]))[1:] == (label, "raw", label)
    with pytest.raises(InvalidValue, match=f"another one than {link}: both are {label}"):
        read_disk_files([link, disks["old"]])


def test_a_disk_that_is_none_of_ours_is_named_by_its_file(root: Path) -> None:
    assert read_disk_file(root) == DiskFile(root, "root", "qcow2", "")
    with pytest.raises(InvalidDisk, match=r"none\.qcow2: cannot be read: No such file"):
        read_disk_file(root.with_name("none.qcow2"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpl-0123456789ab", "dpl-0123456789ab"),
        ("a b,c=d/é", "a_b_c_d__"),
        ("0123", "disk-0123"),
        ("", "disk-"),
        ("a-name-that-is-too-long", "a-name-that-is-too-l"),
    ],
)
def test_an_id_is_one_that_qemu_takes(name: str, expected: str) -> None:
    assert device_id(name) == expected


# --- network and shared folders ---


def test_a_network_has_its_forwards_and_may_have_nothing_else() -> None:
    forwards = (Forward(2222, 22), Forward(53, 5353, "udp", "0.0.0.0"))
    plan = plan_of(replace(GUEST, network=UserNetwork(forwards, is_restricted=True)))
    rules = "hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp:0.0.0.0:53-:5353"
    assert values_of(plan, "-netdev") == [f"user,id=net,restrict=on,{rules}"]
    assert devices_of(plan, "virtio-net-pci") == ["virtio-net-pci,netdev=net,romfile="]


FOLDERS = (SharedFolder(Path("/src,1"), "/mnt/src", is_read_only=True), SharedFolder(Path("/out"), "/out"))


def test_folders_by_9p() -> None:
    plan = plan_of(replace(GUEST, shared_folders=FOLDERS, sharing="9p"))
    assert values_of(plan, "-fsdev") == [
        "local,id=share0,path=/src,,1,security_model=none,multidevs=remap,readonly=on",
        "local,id=share1,path=/out,security_model=none,multidevs=remap",
    ]
    assert devices_of(plan, "virtio-9p-pci")[1] == "virtio-9p-pci,fsdev=share1,mount_tag=share1"
    assert plan.daemons == ()


def test_folders_by_virtiofs_have_a_daemon_each_and_share_the_memory() -> None:
    plan = plan_of(replace(GUEST, shared_folders=FOLDERS), PARTS._replace(virtiofsd="/lib/virtiofsd"))
    assert [daemon.path for daemon in plan.daemons] == [Path("/run/vm/share0"), Path("/run/vm/share1")]
    assert plan.daemons[1].command == ["/lib/virtiofsd", "--socket-path=/run/vm/share1", "-o", "source=/out"]
    assert devices_of(plan, "vhost-user-fs-pci")[0] == "vhost-user-fs-pci,chardev=share0,tag=share0"
    assert values_of(plan, "-object") == ["memory-backend-memfd,id=memory,size=1024M,share=on"]


def test_the_guest_is_told_what_to_mount_beside_what_the_user_says() -> None:
    config = replace(GUEST, shared_folders=FOLDERS, credentials={"fstab.extra": "tmpfs /x tmpfs defaults"})
    [(name, value)] = credentials_of(plan_of(config)).items()
    assert name == "fstab.extra"
    assert value.splitlines() == [
        "share0 /mnt/src virtiofs ro,nofail 0 0",
        "share1 /out virtiofs rw,nofail 0 0",
        "tmpfs /x tmpfs defaults",
    ]


# --- credentials ---


def credentials_of(plan: VmPlan) -> dict[str, str]:
    """The credentials of a command line as systemd reads them."""
    found = {}
    for word in values_of(plan, "-smbios"):
        kind, _, rest = word.replace(",,", ",").removeprefix("type=11,value=io.systemd.credential").partition(":")
        name, _, value = rest.partition("=")
        found[name] = run(["base64", "-d"], stdin=value.encode()) if kind == ".binary" else value
    return found


def test_credentials_survive_qemus_own_syntax() -> None:
    given = {"plain": "a,b c", "lines": "a\nb", "accent": "é"}
    plan = plan_of(replace(GUEST, credentials=given))
    assert credentials_of(plan) == given
    assert values_of(plan, "-smbios") == [
        "type=11,value=io.systemd.credential:plain=a,,b c",
        "type=11,value=io.systemd.credential.binary:lines=YQpi",
        "type=11,value=io.systemd.credential.binary:accent=w6k=",
    ]


def test_a_credential_that_is_no_text() -> None:
    plan = plan_of(replace(GUEST, credentials={"bytes": os.fsdecode(b"\xff")}))
    assert values_of(plan, "-smbios") == ["type=11,value=io.systemd.credential.binary:bytes=/w=="]


def test_credentials_through_fw_cfg() -> None:
    plan = plan_of(replace(GUEST, fw_cfg_credentials={"plain": "a,b c", "lines": "a\nb"}))
    assert values_of(plan, "-fw_cfg") == [
        "name=opt/io.systemd.credentials/plain,string=a,,b c",
        "name=opt/io.systemd.credentials/lines,string=a\nb",
    ]
    assert values_of(plan, "-smbios") == []


def test_the_agent_is_told_which_disks_to_expect() -> None:
    other = DiskFile(Path("/other.raw"), "other", "raw", "")
    parts = PARTS._replace(disks=(*DISKS, other))
    config = replace(WITH_DISKS, disks=(*WITH_DISKS.disks, other.path))
    assert credentials_of(plan_of(config, parts)) == {"docker-preloader.expect": "dpl-a dpl-b"}
    assert credentials_of(plan_of(replace(config, announce_disks=False), parts)) == {}
    assert credentials_of(plan_of(config, PARTS._replace(disks=(other,)))) == {}


def test_what_the_user_says_about_disks_is_what_the_agent_hears() -> None:
    parts, mine = PARTS._replace(disks=DISKS), {"docker-preloader.expect": "auto"}
    assert credentials_of(plan_of(replace(WITH_DISKS, credentials=mine), parts)) == mine
    assert credentials_of(plan_of(replace(WITH_DISKS, fw_cfg_credentials=mine), parts)) == {}


# --- what does not fit together ---


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: VmConfig(Path("/x"), append="quiet"), "boot: expected a kernel with that, or neither, found 'quiet'"),
        (lambda: VmConfig(Path("/x"), initrd=Path("/i")), "boot: expected a kernel"),
        (lambda: VmConfig(Path("/x"), memory_mib=1), "memory: expected at least 16 MiB, found 1"),
        (lambda: VmConfig(Path("/x"), cores=0), "cores: expected at least one, found 0"),
        (lambda: VmConfig(Path("/x"), spare_ports=-1), "spare ports: expected none or more, found -1"),
        (lambda: VmConfig(Path("/x"), empty_disks=(1, 0)), "empty disk: expected a size in bytes, found 0"),
        (
            lambda: VmConfig(Path("/x"), disks=(Path("/d"),), spare_ports=120),
            "disks and spare ports: expected at most 120 with virtio-blk; virtio-scsi has more, found 121",
        ),
        (
            lambda: VmConfig(Path("/x"), qmp=Path("/s"), control=Path("/s")),
            "control: expected another socket than that of qmp, found '/s'",
        ),
        (lambda: Forward(0, 22), "port: expected a number from 1 to 65535, found 0"),
        (lambda: Forward(22, 65536), "port: expected a number from 1 to 65535, found 65536"),
        (lambda: SharedFolder(Path("/x"), "mnt"), "shared folder: expected an absolute path in the guest"),
        (lambda: SharedFolder(Path("/x"), "/a b"), "shared folder: expected an absolute path in the guest"),
    ],
)
def test_a_configuration_is_checked_where_it_is_made(make: Any, problem: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(problem)):
        make()


# --- what is looked at before ---


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A disk with nothing on it but what a BIOS looks for."""
    path, sector = tmp_path / "root.qcow2", tmp_path / "sector"
    sector.write_bytes(b"\0" * 510 + b"\x55\xaa")
    run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"])
    run(["qemu-io", "-f", "qcow2", "-c", f"write -s {sector} 0 512", path])
    return path


def test_the_formats_of_the_disks_are_read_from_them(root: Path, disk: Path, raw_disk: Path, tmp_path: Path) -> None:
    parts = find_parts(VmConfig(root, disks=(disk,)))
    assert (parts.root_format, parts.disks[0].format, parts.firmware) == ("qcow2", "qcow2", None)
    parts = find_parts(VmConfig(convert_to_raw(root), disks=(raw_disk,)))
    assert (parts.root_format, parts.disks[0].format) == ("raw", "raw")
    overlay = tmp_path / "overlay.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", root, overlay])
    assert find_parts(VmConfig(overlay)).root_format == "qcow2"


def refusal(config: VmConfig) -> str:
    with pytest.raises(PreloaderError) as refused:
        find_parts(config)
    return str(refused.value)


def test_an_image_that_cannot_be_one_is_refused_before_anything_runs(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no disk")
    assert refusal(VmConfig(tmp_path / "none")).endswith("none: cannot be read: No such file or directory")
    assert refusal(VmConfig(tmp_path)).endswith("cannot be read: Is a directory")
    assert refusal(VmConfig(tmp_path / "text")).endswith("text: is no disk: it has 7 bytes")
    assert "cannot boot: it has no partition table" in refusal(VmConfig(disk))
    assert find_parts(VmConfig(disk, kernel=tmp_path / "text")).root_format == "qcow2"


def test_files_in_the_way_of_a_socket_stay(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "expected a name for a new socket" in refusal(VmConfig(root, qmp=tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"
    assert "expected a file in a folder that is there" in refusal(VmConfig(root, console_log=tmp_path / "none" / "x"))
    for reader in (VmConfig(root, console_log=root), VmConfig(root, kernel=tmp_path / "file", disks=(root,))):
        log = reader.console_log or tmp_path / "file"
        before = log.read_bytes()
        assert "expected a file of its own" in refusal(replace(reader, console_log=log))
        assert log.read_bytes() == before


def test_a_socket_that_somebody_serves_stays(root: Path, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / "socket"))
        other.listen()
        assert "another program listens on it" in refusal(VmConfig(root, control=folder / "socket"))
    assert find_parts(VmConfig(root, control=folder / "socket")).root_format == "qcow2"


def test_a_path_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.raw")
    path.touch()
    with pytest.raises(InvalidDisk, match="has a path that is not UTF-8, which QEMU cannot be told: rename it"):
        read_disk_file(path)


def test_what_is_shared_is_a_folder(root: Path, tmp_path: Path) -> None:
    shared = (SharedFolder(tmp_path / "none", "/mnt"),)
    assert "expected a folder of this host" in refusal(VmConfig(root, shared_folders=shared))


def test_virtiofsd_has_no_way_to_say_a_comma(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    config = VmConfig(root, shared_folders=(SharedFolder(tmp_path / "a,b", "/mnt"),))
    assert "expected a path without commas for virtiofsd; 9p takes any" in refusal(config)
    assert find_parts(replace(config, sharing="9p")).virtiofsd is None


def test_no_virtiofsd(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qemu-img").symlink_to(find_tool("qemu-img", ""))
    (tmp_path / QEMU).symlink_to(find_tool(QEMU, ""))
    monkeypatch.setattr("preloader_agent.host.vm.sharing.VIRTIOFSD_PLACES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    shared = (SharedFolder(tmp_path, "/mnt"),)
    assert "virtiofsd is not installed: `apt install virtiofsd`" in refusal(VmConfig(root, shared_folders=shared))
    assert find_parts(VmConfig(root, shared_folders=shared, sharing="9p")).virtiofsd is None


# --- UEFI, as the host describes it ---


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(firmware, "_FOLDERS", (tmp_path / "first", tmp_path / "second"))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    return tmp_path


def describe(folder: Path, name: str, **changes: object) -> Path:
    code = folder.parent / f"{name}.code"
    code.touch()
    flash = {
        "executable": {"filename": str(code), "format": "raw"},
        "nvram-template": {"filename": "/v", "format": "raw"},
    }
    target = {"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}
    known = {"interface-types": ["uefi"], "mapping": {"device": "flash", **flash}, "targets": [target], "features": []}
    (folder / f"{name}.json").write_text(json.dumps({**known, **changes}))
    return code


def test_the_first_firmware_that_fits_is_taken(described: Path) -> None:
    describe(described / "first", "10-secure", features=["requires-smm", "secure-boot"])
    describe(described / "first", "11-arm", targets=[{"architecture": "aarch64", "machines": ["virt-*"]}])
    describe(described / "first", "12-bios", **{"interface-types": ["bios"]})
    describe(described / "first", "13-memory", mapping={"device": "memory", "filename": "/x"})
    describe(described / "second", "14-gone").unlink()
    (described / "second" / "15-broken.json").write_text("{")
    describe(described / "first", "60-plain")
    code = describe(described / "second", "50-plain")
    assert find_firmware() == Firmware(code, "raw", Path("/v"), "raw")


def test_no_firmware(described: Path) -> None:
    with pytest.raises(ToolMissing, match=f"`apt install ovmf`, .* in {described}/first, "):
        find_firmware()
