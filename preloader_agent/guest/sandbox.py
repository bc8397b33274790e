"""Which settings of a unit keep our mounts from dockerd; imported only when that has happened.

Each of these gives the unit a mount namespace of its own: mount(2) succeeds in it, and dockerd never sees the disk.
systemd says nothing of it, and a drop-in that hardens every service is enough. `MountFlags=shared` is no cure.
"""

from __future__ import annotations

from preloader_agent.guest.unitfiles import Assignment, read_unit

# systemd.exec(5), up to systemd 257; each was tried on 257, the commonest on 252 and 262 as well.
NAMESPACE_DIRECTIVES = frozenset({
    "BindPaths", "BindReadOnlyPaths", "DynamicUser", "ExecPaths", "ExtensionDirectories", "ExtensionImages",
    "InaccessiblePaths", "LogNamespace", "MountAPIVFS", "MountFlags", "MountImages", "NoExecPaths", "PrivateDevices",
    "PrivateIPC", "PrivateMounts", "PrivateNetwork", "PrivatePIDs", "PrivateTmp", "PrivateUsers", "ProcSubset",
    "ProtectControlGroups", "ProtectHome", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
    "ProtectProc", "ProtectSystem", "ReadOnlyPaths", "ReadWritePaths", "RootDirectory", "RootImage",
    "TemporaryFileSystem",
})  # fmt: skip

# Those that take paths are lists: each assignment adds to them, an empty one takes all back.
_LISTS = frozenset({
    "BindPaths", "BindReadOnlyPaths", "ExecPaths", "ExtensionDirectories", "ExtensionImages", "InaccessiblePaths",
    "MountImages", "NoExecPaths", "ReadOnlyPaths", "ReadWritePaths", "TemporaryFileSystem",
})  # fmt: skip
_OFF = ("", "no", "n", "false", "f", "off", "0")
_DEFAULTS = {"ProcSubset": "all", "ProtectProc": "default"}


def find_namespace_directives(unit: str, root: str = "") -> list[str]:
    """The settings of a unit that make a mount namespace, each with the file that has it."""
    found: dict[str, list[Assignment]] = {}
    for assignment in read_unit(unit, root):
        key, value = assignment.key, assignment.value
        if assignment.section != "Service" or key not in NAMESPACE_DIRECTIVES:
            continue
        if value == _DEFAULTS.get(key) or value.lower() in _OFF:
            found.pop(key, None)
        else:
            found[key] = [*(found.get(key, []) if key in _LISTS else []), assignment]
    return [f"{each.path}: {each.key}={each.value}" for assignments in found.values() for each in assignments]


def explain_namespace(unit: str, root: str = "") -> str:
    """Why dockerd cannot see a mount of ours, and what to do about it."""
    culprits = find_namespace_directives(unit, root)
    if culprits:
        what = "makes a mount namespace; remove it" if len(culprits) == 1 else "make a mount namespace; remove them"
        return f"dockerd cannot see it: {', '.join(culprits)} {what}"
    general = f"no setting in the files of {unit} does that, so look at `systemctl show {unit}` and at what started it"
    return f"dockerd cannot see it, because this process is in a mount namespace of its own; {general}"
