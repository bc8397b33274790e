"""The XML for libvirt; tests/system/test_libvirt.py gives it to libvirt itself."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.libvirt import libvirt_xml
from preloader_agent.host.vm.diskfile import DiskFile
from tests.host.command import Preloader


def disk_of(name: str, path: str = "/disks/x.qcow2") -> DiskFile:
    return DiskFile(Path(path), name, "qcow2")


def attribute(xml: str, element: str, name: str) -> str | None:
    found = ElementTree.fromstring(xml).find(element)
    return None if found is None else found.get(name)


def test_the_whole_element(disk: Path, preloader: Preloader) -> None:
    label = inspect_disk(disk).label
    expected = f"""<disk type="file" device="disk">
  <driver name="qemu" type="qcow2" />
  <source file="{disk}" />
  <target dev="vdx" bus="virtio" />
  <serial>{label}</serial>
  <readonly />
</disk>
"""
    assert preloader("libvirt-xml", "--target", "vdx", disk) == (0, expected, "")


def test_a_path_is_absolute_and_escaped(
    raw_disk: Path, tmp_path: Path, preloader: Preloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / """a<b>&"c'é.raw""").symlink_to(raw_disk)
    monkeypatch.chdir(tmp_path)
    xml = preloader("libvirt-xml", """a<b>&"c'é.raw""").out
    assert attribute(xml, "source", "file") == f"""{tmp_path}/a<b>&"c'é.raw"""
    assert attribute(xml, "driver", "type") == "raw"


def test_what_xml_cannot_say(raw_disk: Path, tmp_path: Path, preloader: Preloader) -> None:
    (tmp_path / "a\x01b").symlink_to(raw_disk)
    result = preloader("libvirt-xml", tmp_path / "a\x01b")
    assert (result.status, result.out) == (2, "")
    assert "expected a path of printable characters" in result.err


def test_what_is_no_disk(tmp_path: Path, preloader: Preloader) -> None:
    assert preloader("libvirt-xml", tmp_path / "none").err.endswith("none: cannot be read: No such file or directory\n")
    (tmp_path / "images.tar").write_bytes(bytes(10240))
    assert "holds no ext4" in preloader("libvirt-xml", tmp_path / "images.tar").err


@pytest.mark.parametrize(("bus", "prefix"), [("virtio", "vd"), ("scsi", "sd")])
def test_each_disk_has_a_target_of_its_own_and_keeps_it(bus: str, prefix: str) -> None:
    xmls = [libvirt_xml(disk_of(f"dpl-{number:012x}"), bus) for number in range(200)]
    targets = [attribute(xml, "target", "dev") or "" for xml in xmls]
    assert len(set(targets)) == len(xmls)
    assert all(target.startswith(prefix) and target.isalpha() for target in targets)
    assert libvirt_xml(disk_of("dpl-000000000007", "/elsewhere"), bus).count(targets[7]) == 1


def test_a_scsi_disk_has_an_address_unless_it_has_a_target() -> None:
    xmls = [libvirt_xml(disk_of(f"dpl-{number:012x}"), "scsi") for number in range(20)]
    places = {(attribute(xml, "address", "target"), attribute(xml, "address", "unit")) for xml in xmls}
    assert len(places) == len(xmls)
    assert all(1 <= int(target or 0) <= 99 and 0 <= int(unit or 0) < 16384 for target, unit in places)
    assert attribute(libvirt_xml(disk_of("dpl-a"), "scsi", "sdb"), "address", "type") is None
