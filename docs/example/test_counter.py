"""Redis and a web page that counts its visits in it: two containers, tested in a virtual machine.

docker build -t counter:1 docs/example
docker save redis:8 counter:1 >images.tar
pytest --preload-guest guest.qcow2 docs/example
"""

from collections.abc import Iterator

import pytest

from preloader_agent.host import Vm
from preloader_agent.host.pytest_plugin import PreloadDisk, PreloadVm

RUN = "docker run --detach --network app --restart always"
VISIT = """python3 -c 'from urllib.request import urlopen; print(urlopen("http://localhost:8000").read().decode())'"""


@pytest.fixture(scope="module")
def vm(preload_disk: PreloadDisk, preload_vm: PreloadVm) -> Iterator[Vm]:
    """A machine that runs both containers; it boots once for all tests."""
    with preload_vm(preload_disk("images.tar")) as vm:
        vm.succeed("docker network create app")
        vm.succeed(f"{RUN} --name redis redis:8 --appendonly yes")
        vm.succeed(f"{RUN} --name counter --publish 8000:8000 counter:1")
        vm.wait_until_succeeds(VISIT)
        yield vm


def test_every_visit_counts(vm: Vm) -> None:
    first, second = (int(vm.succeed(VISIT)) for _ in range(2))
    assert second == first + 1


def test_the_page_says_that_redis_is_away(vm: Vm) -> None:
    vm.succeed("docker stop redis")
    assert "503: Service Unavailable" in vm.fail(VISIT)
    vm.succeed("docker start redis")
    vm.wait_until_succeeds(VISIT)


def test_the_count_survives_a_power_cut(vm: Vm) -> None:
    before = int(vm.succeed(VISIT))
    vm.succeed("docker exec redis redis-cli waitaof 1 0 10000")  # it is on the disk
    vm.crash()
    vm.start()
    vm.wait_booted()
    assert int(vm.wait_until_succeeds(VISIT)) == before + 1
