"""docs/kubevirt.md: a real dockerd builds its images, and its manifests name what is in them.

There is no cluster. That the manifests have KubeVirt's fields was checked by hand, with its own schemas.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import run
from tests.dockerd import Dockerd
from tests.images import busybox_image, write_docker_archive
from tests.walkthrough import DOCS, Block, read_blocks, run_on_host, write_files

PAGE = DOCS / "kubevirt.md"
LABEL = "dpl-fb212d31a377"  # of the page
QEMU_USER = 107  # in KubeVirt's pods


def test_the_images_hold_a_disk_each_for_kubevirts_qemu(dockerd: Dockerd, tmp_path: Path) -> None:
    run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "guest.qcow2", "1M"])
    archive = write_docker_archive([busybox_image()], tmp_path / "redis.tar", "oci")
    label = build_disk([archive], tmp_path / "redis.qcow2").index.label
    ours = f"DOCKER_BUILDKIT=0 DOCKER_HOST={dockerd.host} docker build"
    blocks = read_blocks(PAGE, {LABEL: label, "docker build": ours})
    write_files(blocks, tmp_path)
    (commands,) = (block.text for block in blocks if block.text.startswith(ours))
    run_on_host(commands, tmp_path)
    for image, name in images_of(blocks).items():
        with tarfile.open(fileobj=io.BytesIO(save_tree(dockerd, image))) as tree:
            disk = tree.extractfile(f"disk/{name}.qcow2")
            assert disk is not None
            assert disk.read() == (tmp_path / f"{name}.qcow2").read_bytes()
            found = {(member.uid, member.gid) for member in tree if member.name.startswith("disk/") and member.isfile()}
            assert found == {(QEMU_USER, QEMU_USER)}


def save_tree(dockerd: Dockerd, image: str) -> bytes:
    """The files of an image, as a tar."""
    container = dockerd.docker("create", image, "never-run").strip()
    dockerd.docker("export", "--output", dockerd.folder / "tree.tar", container)
    return (dockerd.folder / "tree.tar").read_bytes()


def images_of(blocks: list[Block]) -> dict[str, str]:
    """The images that the machine's manifest asks for, and the disk that each is there for."""
    (manifest,) = (block.text for block in blocks if block.name == "vm.yaml")
    volumes = YAML(typ="safe").load(manifest)["spec"]["template"]["spec"]["volumes"]
    names = {volume["containerDisk"]["image"]: volume["name"] for volume in volumes}
    return {image: "guest" if name == "root" else name for image, name in names.items()}


def test_the_machine_has_what_the_page_says_of_it() -> None:
    blocks = {block.name: block.text for block in read_blocks(PAGE, {})}
    spec: dict[str, Any] = YAML(typ="safe").load(blocks["vm.yaml"])["spec"]["template"]["spec"]
    disks = {disk["name"]: disk for disk in spec["domain"]["devices"]["disks"]}
    assert set(disks) == {volume["name"] for volume in spec["volumes"]}
    assert disks["root"]["bootOrder"] == 1
    assert disks["redis"]["disk"]["readonly"] is True
    volume = YAML(typ="safe").load(blocks["volume.yaml"])
    image = f"docker://{spec['volumes'][1]['containerDisk']['image']}"
    assert (volume["metadata"]["name"], volume["spec"]["source"]["registry"]["url"]) == ("redis", image)
    assert disks["redis"]["serial"] == LABEL
