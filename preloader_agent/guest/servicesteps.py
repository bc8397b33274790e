"""What the service of a container does beside `docker run`: what its unit's ExecStartPre= and the like call.

Docker is asked by its own command, with the options that the description has for it, so that it is the same Docker.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from itertools import chain, repeat

from preloader_agent.containers.definition import ALWAYS, NEVER, Container, Login
from preloader_agent.containers.unit import DOCKER, LABEL
from preloader_agent.errors import CommandFailed, ContainerError
from preloader_agent.guest import log
from preloader_agent.guest.docker import is_running
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.programs import run, run_piped

_PAUSES = (0.1, 0.2, 0.5, 1.0)  # seconds between two looks at a container that starts, which may take a pull; then 2


def prepare_container(container: Container) -> None:
    """Remove what the last run has left, and see to the image. Raises ContainerError, ToolError, OSError.

    A registry is logged in to only where the image is to come from there: the image of a disk needs no network.
    """
    docker = (DOCKER, *container.docker_options)
    remove_container(container.name, container.docker_options)
    if container.pull == ALWAYS:
        _log_in(docker, container.login)
    elif not _has_image(docker, container):
        _get_image(docker, container)


def wait_for_start(name: str, docker_options: Sequence[str], main_pid: int) -> None:
    """Wait until the container runs, or the service's main process has ended: how it has ended says how it went."""
    try:
        main = os.pidfd_open(main_pid)
    except ProcessLookupError:
        return
    end = select.poll()
    end.register(main, select.POLLIN)
    for pause in chain(_PAUSES, repeat(2.0)):
        if _runs(name, docker_options) or end.poll(pause * 1000):
            break
    os.close(main)


def clean_up(name: str, docker_options: Sequence[str]) -> None:
    """Remove the container of a service that has ended. Raises ToolError.

    A docker that has crashed is not asked: its socket would have us wait for it, and its start waits for the service
    to end. The next start of the service removes the container.
    """
    if is_running(Paths()):
        remove_container(name, docker_options)


def remove_container(name: str, docker_options: Sequence[str] = ()) -> None:
    """Remove a container that a service has made, running or not, with its volumes that have no name.

    One of that name that somebody else has made is left alone: Docker says so when it is to run another.
    """
    docker = (DOCKER, *docker_options)
    ours = ("--filter", f"label={LABEL}={name}")
    found = run([*docker, "container", "ls", "--all", "--quiet", *ours]).split()
    if found:
        run([*docker, "container", "rm", "--force", "--volumes", *found])


def _has_image(docker: Sequence[str], container: Container) -> bool:
    return bool(run([*docker, "image", "ls", "--quiet", container.image]).strip())


def _get_image(docker: Sequence[str], container: Container) -> None:
    """Load the image, or make ready for `docker run` to pull it."""
    source = container.image_file or container.image_stream
    if source:
        load = [*docker, "image", "load"]
        loaded = run([*load, f"--input={source}"]) if container.image_file else run_piped([source], load)
        if not _has_image(docker, container):
            said = " ".join(loaded.split())
            raise ContainerError(container.name, f"{source} does not hold the image {container.image}; docker: {said}")
        log.info("%s: loaded %s from %s", container.name, container.image, source)
    elif container.pull == NEVER:
        what = f"docker has no image {container.image}, and pull is never"
        raise ContainerError(container.name, f"{what}: attach the disk that has it, or load it")
    else:
        _log_in(docker, container.login)


def _log_in(docker: Sequence[str], login: Login | None) -> None:
    """The password is in no argument, where every process of the machine could see it."""
    if login is not None:
        with open(login.password_file, "rb") as file:
            password = file.read()
        registry = [login.registry] if login.registry else []
        run([*docker, "login", f"--username={login.username}", "--password-stdin", *registry], stdin=password)


def _runs(name: str, docker_options: Sequence[str]) -> bool:
    asked = [DOCKER, *docker_options, "container", "inspect", "--format={{.State.Running}}", name]
    try:
        return run(asked).strip() == "true"
    except CommandFailed:  # it is not there yet, or docker is being stopped
        return False
