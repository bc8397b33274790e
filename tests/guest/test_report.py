from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preloader_agent.guest.paths import Paths
from preloader_agent.guest.report import (
    DeviceReport,
    DevicesReport,
    Status,
    forget_merged,
    read_status,
    write_devices,
    write_store,
)
from preloader_agent.guest.wake import MERGED, open_wake_socket, wake_daemon

ONE, TWO = "dpl-000000000001", "dpl-000000000002"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run_dir=str(tmp_path))


def store_report(*labels: str, problems: tuple[str, ...] = ()) -> dict[str, Any]:
    images = [
        {"id": f"sha256:{number:064}", "references": [f"i:{number}"], "size": 5_000_000, "disk": label}
        for number, label in enumerate(labels)
    ]
    return {"images": images, "layers": 3, "merged": sorted({*labels}), "problems": problems, "pass_seconds": 0.01}


def status_of(paths: Paths) -> Status:
    status = read_status(paths)
    assert status is not None
    return status


def mounted(*labels: str) -> list[DeviceReport]:
    return [DeviceReport(label, f"/dev/vd{letter}", "mounted") for label, letter in zip(labels, "bcd", strict=False)]


def test_before_the_first_pass_there_is_nothing_to_show(paths: Paths) -> None:
    assert read_status(paths) is None


def test_the_headline_counts_images_and_disks(paths: Paths) -> None:
    write_devices(paths, DevicesReport(mounted(ONE, TWO), [], 0.41))
    write_store(paths, store_report(ONE, ONE, TWO))
    assert status_of(paths).headline() == "3 images from 2 disks, ready in 0.4 s"
    assert [disk["state"] for disk in status_of(paths).as_json()["disks"]] == ["adopted", "adopted"]


def test_no_disk_is_no_problem(paths: Paths) -> None:
    write_devices(paths, DevicesReport([], [], 0.06))
    write_store(paths, store_report())
    assert status_of(paths).headline() == "0 images from 0 disks, ready in 0.1 s"
    assert status_of(paths).all_problems == []


def test_another_disk_under_a_label_is_neither_adopted_nor_refused_yet(paths: Paths) -> None:
    write_devices(paths, DevicesReport(mounted(ONE, TWO), [], 1))
    write_store(paths, {**store_report(ONE), "refused": {TWO: "no room"}})
    assert status_of(paths).pending == []
    for label in (ONE, TWO):
        forget_merged(paths, [label])
    assert status_of(paths).pending == [ONE, TWO]
    assert status_of(paths).all_problems == []


def test_a_plugged_disk_is_pending_until_docker_starts_again(paths: Paths) -> None:
    write_devices(paths, DevicesReport(mounted(ONE, TWO), [], 1))
    write_store(paths, store_report(ONE))
    status = status_of(paths)
    assert status.headline() == "1 image from 1 disk, ready in 1.0 s; 1 disk more at docker's next start"
    assert [disk["state"] for disk in status.as_json()["disks"]] == ["adopted", "pending"]


def test_the_images_of_an_unplugged_disk_are_lost_not_counted(paths: Paths) -> None:
    write_devices(paths, DevicesReport(mounted(ONE), [], 1))
    write_store(paths, store_report(ONE, TWO))
    status = status_of(paths)
    problem = f"{TWO} was unplugged; its images go at docker's next start"
    assert status.headline() == f"1 image from 1 disk, ready in 1.0 s; {problem}"
    assert status.all_problems == [problem]
    assert [image["lost"] for image in status.as_json()["images"]] == [False, True]
    assert not any("i:1" in line for line in status.lines())


def test_every_problem_is_named(paths: Paths) -> None:
    refused = DeviceReport(TWO, "/dev/vdc", "refused", "its index is not valid")
    write_devices(paths, DevicesReport([*mounted(ONE), refused], ["dpl-missing"], 30, ("daemon.json: not valid JSON",)))
    write_store(paths, store_report(ONE, problems=("a:1 stays with image 1",)))
    lines = "\n".join(status_of(paths).lines())
    for problem in ("in time: dpl-missing", f"{TWO} (/dev/vdc): its index", "daemon.json: not valid", "a:1 stays"):
        assert problem in lines
    assert "in time: dpl-missing; 3 more problems, see docker-preloader status" in lines


def test_the_headline_is_ascii_whatever_a_disk_is_called(paths: Paths) -> None:
    write_devices(paths, DevicesReport(mounted("dpl-\u00e9"), [], 1))
    write_store(paths, store_report("dpl-\u00e9"))
    assert status_of(paths).headline().isascii()


def test_waking_tells_whether_there_is_a_daemon(paths: Paths) -> None:
    assert not wake_daemon(paths.wake_socket, MERGED)
    with open_wake_socket(paths.wake_socket) as wake:
        assert wake_daemon(paths.wake_socket, MERGED)
        assert wake.recv(64) == MERGED
        for _ in range(10_000):  # a daemon that does not listen does not make anybody wait
            assert wake_daemon(paths.wake_socket, MERGED)
    assert not wake_daemon(paths.wake_socket, MERGED)
    open_wake_socket(paths.wake_socket).close()
