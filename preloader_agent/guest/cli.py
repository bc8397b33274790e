"""The `docker-preloader` command: with `containercommands`, the only place of the guest side that prints and exits."""

from __future__ import annotations

import gc
import os
import sys
import time

from preloader_agent.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_INVALID, PreloaderError, StoreError
from preloader_agent.guest import log
from preloader_agent.guest.paths import Paths

TYPE_CHECKING = False  # typing.TYPE_CHECKING to type checkers, without the import
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from preloader_agent.guest.report import DeviceReport


def main() -> None:
    """Run the command and exit: 0 done, 1 the operation failed, 2 invalid input or usage, 130 interrupted."""
    try:
        # The daemon's start is part of the boot: argparse, which would cost it 13 ms, is for the other commands.
        status = _run() if sys.argv[1:] == ["run"] else _run_command()
    except PreloaderError as err:
        log.error("docker-preloader: %s", err)
        status = err.exit_code
    except ModuleNotFoundError as err:
        log.error(
            "docker-preloader: Python has no module %s: run pip install 'preloader-agent[guest]', "
            "or install the package docker-preloader of your distribution",
            err.name,
        )
        status = EXIT_FAILED
    except OSError as err:
        hint = "; run it as root" if isinstance(err, PermissionError) else ""
        log.error("docker-preloader: %s: %s%s", err.filename or "system call", err.strerror or err, hint)
        status = EXIT_FAILED
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    sys.exit(status)


def _run() -> int:
    gc.disable()  # until READY=1: nothing that is imported and read on the way is garbage; looking for it takes 2 ms
    from preloader_agent.guest.daemon import Daemon
    from preloader_agent.guest.dockerconfig import read_paths

    started = _process_start()
    try:
        paths, unusable = read_paths(), None
    except StoreError as err:
        paths, unusable = Paths(), err
    Daemon(paths, unusable, started).run()
    return 0


def _process_start() -> float:
    """The monotonic time at which this process began, the interpreter's start included (proc(5), field 22)."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age


def _run_command() -> int:
    options = make_parser().parse_args()
    return int(options.command(options))


def make_parser() -> ArgumentParser:
    """What the command line takes; the manual page and the shells' completions are made from it as well."""
    from argparse import ArgumentParser

    from preloader_agent import __version__
    from preloader_agent.guest.containercommands import add_commands

    description = "Make the images on attached disks part of Docker's store."
    parser = ArgumentParser(prog="docker-preloader", description=description, add_help=False)
    parser.add_argument("-h", "--help", action="help", help="Show this message and exit.")
    parser.add_argument("--version", action="version", version=__version__, help="Show the version and exit.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("run", help="The daemon that docker-preloader.service starts.").set_defaults(command=_usage)
    status = commands.add_parser("status", help="Show disks, images, layers, durations and problems.")
    status.add_argument("--json", action="store_true", help="Print it as JSON, for programs.")
    status.set_defaults(command=_status)
    release = commands.add_parser("release", help="Take a disk's images out of the store, so that it can be unplugged.")
    _add_release_arguments(release)
    sync = commands.add_parser("sync", help="Make one pass over the attached disks, or over the devices named.")
    _add_sync_arguments(sync)
    containers = commands.add_parser("containers", help="What runs containers as services of the machine.")
    add_commands(containers.add_subparsers(metavar="COMMAND", required=True))
    for command in (status, release, sync):
        where = "Where the agent keeps its state and mounts disks, instead of %(default)s."
        command.add_argument("--run-dir", metavar="DIR", default=Paths().run_dir, help=where)
    return parser


def _add_release_arguments(release: ArgumentParser) -> None:
    release.add_argument("label", metavar="LABEL", help="The disk's label, as status shows it.")
    release.add_argument(
        "--force", action="store_true", help="Go on though containers use the disk, or Docker must be restarted."
    )
    release.set_defaults(command=_release)


def _add_sync_arguments(sync: ArgumentParser) -> None:
    disks = sync.add_mutually_exclusive_group()
    disks.add_argument("--device", metavar="DEV", action="append", default=[], help="Mount this disk first.")
    disks.add_argument(
        "--release-all",
        action="store_true",
        help="Mount none, and let go of every disk that is mounted, whatever uses it.",
    )
    sync.add_argument(
        "--docker-root", metavar="DIR", help="A data directory, instead of the one that Docker is configured to use."
    )
    sync.add_argument("--docker-pidfile", metavar="FILE", help="The pid file of the dockerd that uses it.")
    sync.set_defaults(command=_sync)


def _usage(_options: Namespace) -> int:
    log.error("docker-preloader: run takes no options")
    return EXIT_INVALID


def _status(options: Namespace) -> int:
    from preloader_agent.guest.report import read_status

    status = read_status(Paths(run_dir=os.path.abspath(options.run_dir)))
    if status is None:
        log.error("docker-preloader: nothing to show yet; is docker-preloader.service running?")
        return EXIT_FAILED
    if options.json:
        import orjson

        print(orjson.dumps(status.as_json(), option=orjson.OPT_INDENT_2).decode())
    else:
        print("\n".join(status.lines()))
    return 0


def _release(options: Namespace) -> int:
    from preloader_agent.guest.control import ask
    from preloader_agent.guest.releases import ANSWER_SECONDS, SERVICES_SECONDS

    paths = Paths(run_dir=os.path.abspath(options.run_dir))
    request = {"request": "release", "label": options.label, "force": options.force}
    answer = ask(paths.control_socket, request, SERVICES_SECONDS + ANSWER_SECONDS + 30)
    if not answer["ok"]:
        log.error("docker-preloader: not released: %s", answer["error"])
        return EXIT_FAILED
    print(f"{options.label} is released: {answer.get('device', 'its device')} can be unplugged")
    return 0


def _sync(options: Namespace) -> int:
    from preloader_agent.guest.report import DevicesReport, read_status, write_devices
    from preloader_agent.guest.sync import forget_own_files, merge, release_all
    from preloader_agent.guest.wake import MERGED, POSTPONED, wake_daemon

    paths = _sync_paths(options)
    if options.release_all:
        release_all(paths)
    devices = [(device, "") for device in options.device]
    if not options.device and not options.docker_root and not options.release_all:
        from preloader_agent.guest.devices import Devices
        from preloader_agent.guest.released import read_released
        from preloader_agent.guest.settings import read_settings

        released = read_released(paths)
        found = Devices(read_settings()[0].labels).enumerate()
        devices = [(device.node, device.label) for device in found if device.label not in released]
    refused, status = _attach_devices(paths, devices)
    if not options.device:
        status = 0  # a disk that is not fit is reported, but it was not asked for by name
    has_merged = merge(paths)
    if not has_merged:
        hint = (
            "" if options.docker_pidfile else " (a dockerd that uses another store is told apart by --docker-pidfile)"
        )
        log.warning("docker-preloader: docker runs; the change is made at its next start%s", hint)
        status = EXIT_FAILED
    elif options.release_all:
        forget_own_files(paths)
    if not wake_daemon(paths.wake_socket, MERGED if has_merged else POSTPONED):
        write_devices(paths, DevicesReport([*_mounted_devices(paths), *refused], []))
    report = read_status(paths)
    if report is not None:
        print(report.headline())
    return status


def _sync_paths(options: Namespace) -> Paths:
    from preloader_agent.guest.dockerconfig import read_paths

    run_dir = os.path.abspath(options.run_dir)
    paths = Paths(run_dir=run_dir) if options.docker_root else read_paths(run_dir)
    if options.docker_root:
        paths = paths._replace(docker_root=os.path.abspath(options.docker_root))
    if options.docker_pidfile:
        # A dockerd that is not docker.service's: whether the service runs says nothing about its store.
        paths = paths._replace(docker_pidfile=os.path.abspath(options.docker_pidfile), docker_cgroup="/nonexistent")
    return paths


def _attach_devices(paths: Paths, devices: list[tuple[str, str]]) -> tuple[list[DeviceReport], int]:
    """Mount some devices, each on its own: one that is not fit does not keep the others out."""
    from preloader_agent.guest.disks import attach_disk, read_label
    from preloader_agent.guest.report import DeviceReport
    from preloader_agent.guest.sync import exclusive

    refused, status = [], 0
    for device, known_label in devices:
        label = known_label
        try:
            label = known_label or read_label(device)
            with exclusive(paths):
                attach_disk(paths, device, label)
        except (PreloaderError, OSError) as err:
            log.error("not mounting %s: %s", device, err)
            refused.append(DeviceReport(label or "?", device, "refused", str(err)))
            status = err.exit_code if isinstance(err, PreloaderError) else EXIT_FAILED
    return refused, status


def _mounted_devices(paths: Paths) -> list[DeviceReport]:
    from preloader_agent.guest.mounts import list_mounts
    from preloader_agent.guest.report import DeviceReport

    mounts = sorted(list_mounts(paths.mounts), key=lambda mount: mount.target)
    return [DeviceReport(os.path.basename(mount.target), mount.source, "mounted") for mount in mounts]
