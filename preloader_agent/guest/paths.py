"""Where the agent finds and keeps things. Every path comes from here, so that tests give it folders of their own."""

from __future__ import annotations

from typing import NamedTuple

from preloader_agent.store.layout import Store


class Paths(NamedTuple):
    """The roots that everything else is below."""

    docker_root: str = "/var/lib/docker"
    run_dir: str = "/run/docker-preloader"
    docker_pidfile: str = "/run/docker.pid"
    docker_cgroup: str = "/sys/fs/cgroup/system.slice/docker.service/cgroup.procs"
    docker_socket: str = "/run/docker.sock"

    @property
    def store(self) -> Store:
        """Docker's store in the guest."""
        return Store(self.docker_root)

    @property
    def mounts(self) -> str:
        """The directory of mount points, one a disk, named by the disk's label."""
        return f"{self.run_dir}/disks"

    @property
    def lock(self) -> str:
        """Held by whoever mounts a disk or changes Docker's store."""
        return f"{self.run_dir}/lock"

    @property
    def pending(self) -> str:
        """Exists while something mounted waits for docker's next start; docker-preloader-merge.service looks at it."""
        return f"{self.run_dir}/pending"

    @property
    def devices_report(self) -> str:
        """What the daemon knows of disks."""
        return f"{self.run_dir}/devices.json"

    @property
    def store_report(self) -> str:
        """What the last pass did to Docker's store."""
        return f"{self.run_dir}/store.json"

    @property
    def adopted(self) -> str:
        """The images and references adopted since boot: what of them is gone was removed by the user."""
        return f"{self.run_dir}/adopted.json"

    @property
    def released(self) -> str:
        """The disks that were released, and are not mounted again while they stay plugged in."""
        return f"{self.run_dir}/released.json"

    @property
    def containers(self) -> str:
        """The containers that disks have brought, in a directory for each disk; systemd's generator reads it."""
        return f"{self.run_dir}/containers.d"

    @property
    def unfinished(self) -> str:
        """The services of those that are being started or stopped; whoever is killed meanwhile goes on with them."""
        return f"{self.run_dir}/containers.json"

    def container(self, label: str, name: str) -> str:
        """The definition of a container that a disk has brought."""
        return f"{self.containers}/{label}/{name}.toml"

    @property
    def control_socket(self) -> str:
        """Where the daemon takes requests."""
        return f"{self.run_dir}/control"

    @property
    def wake_socket(self) -> str:
        """A datagram here tells the daemon that another process has changed Docker's store."""
        return f"{self.run_dir}/wake"

    def mountpoint(self, label: str) -> str:
        """Where the disk of a label is mounted."""
        return f"{self.mounts}/{label}"
