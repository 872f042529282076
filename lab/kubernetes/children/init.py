"""The first process of a machine: gives it a root directory, a name and a loopback, then reaps what ends in it.

Started in new mount, UTS and PID namespaces with the path of a JSON file:

{"hostname": str, "loopback": bool, "sysctls": {name: value}, "root": null or {"folder": str, "binds": [str, ...]}}

With ``root`` the machine sees an /etc, /opt, /root, /var and /run of its own (the first three begin as those of the
machine below), what that one has in /usr, /tmp and elsewhere, and each of ``binds`` at its own path. What it writes to
the former lies in ``folder``; /usr cannot be written. Prints "ready", or what failed. This process is PID 1 there: with
it ends the whole machine (pid_namespaces(7)).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

#: Begin empty, or with what the machine below has (an overlay), or are made new.
OVERLAID = ("etc", "opt", "root")
FRESH = ("var", "mnt", "media", "boot", "lost+found", "home", "srv")
MADE = ("run", "proc", "sys")
VAR = ("lib/kubelet", "lib/containerd", "lib/cni", "log/pods", "log/containers", "tmp", "cache", "spool")


def mount(*arguments: str | Path) -> None:
    """Run the program; OSError has its message."""
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"mount {' '.join(map(str, arguments))}: {done.stderr.strip()}")


def link(place: Path, target: Path) -> None:
    """Make a symbolic link unless it is there."""
    if not place.is_symlink():
        place.symlink_to(target)


def bind(source: Path, root: Path) -> None:
    """Show a folder or file of the machine below at the same path."""
    target = root / source.relative_to("/")
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--rbind", source, target)


def build_root(folder: Path, binds: list[str]) -> None:
    """Compose the root directory under ``folder`` and make it ours (pivot_root(2))."""
    root = folder / "root"
    root.mkdir(exist_ok=True)  # a machine that is switched on again finds its disk
    mount("--bind", root, root)
    for entry in sorted(Path("/").iterdir()):
        name = entry.name
        if entry.is_symlink():
            link(root / name, entry.readlink())
        elif name in OVERLAID:
            upper, work = folder / f"{name}.upper", folder / f"{name}.work"
            first = not upper.exists()
            for path in (root / name, upper, work):
                path.mkdir(exist_ok=True)
            shutil.copystat(entry, upper)
            mount("-t", "overlay", "overlay", "-o", f"lowerdir={entry},upperdir={upper},workdir={work}", root / name)
            if first and name == "etc":
                # Podman's network of the machine below would be the pods': a node gets its own.
                shutil.rmtree(root / "etc/cni", ignore_errors=True)
        elif name in FRESH or name in MADE:
            (root / name).mkdir(exist_ok=True)
        elif entry.is_dir():
            bind(entry, root)
    mount("-o", "remount,bind,ro", root / "usr")
    for place in VAR:
        (root / "var" / place).mkdir(parents=True, exist_ok=True)
    link(root / "var/run", Path("/run"))
    link(root / "var/lock", Path("/run/lock"))
    (root / "var/tmp").chmod(0o1777)
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root / "run")
    for name in ("netns", "lock", "xtables", "containerd"):
        (root / "run" / name).mkdir()
    mount("-t", "proc", "proc", root / "proc")
    # A new sysfs shows this network namespace's devices, but not the cgroups.
    mount("-t", "sysfs", "sysfs", root / "sys")
    mount("--rbind", "/sys/fs/cgroup", root / "sys/fs/cgroup")
    for shown in binds:
        bind(Path(shown), root)
    old = root / ".old"
    old.mkdir(exist_ok=True)
    subprocess.run(["pivot_root", root, old], check=True)
    os.chdir("/")
    subprocess.run(["umount", "--lazy", "/.old"], check=True)
    Path("/.old").rmdir()
    # As on a machine where systemd runs: what the kubelet mounts for a pod is seen in the pod.
    mount("--make-rshared", "/")


def set_up(settings: dict[str, object]) -> None:
    """Bring the namespaces into the wanted form."""
    socket.sethostname(str(settings["hostname"]))
    root = settings.get("root")
    if isinstance(root, dict):
        build_root(Path(root["folder"]), list(root["binds"]))
    if settings.get("loopback"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sysctls = settings.get("sysctls")
    if isinstance(sysctls, dict):
        for name, value in sysctls.items():
            Path("/proc/sys", name.replace(".", "/")).write_text(str(value))


def reap() -> None:
    """Wait for children for ever, without polling."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        signal.sigwait({signal.SIGCHLD})


def main() -> None:
    """Read the settings, set up, say so, stay."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        set_up(settings)
    except (OSError, subprocess.CalledProcessError) as error:
        print(error, flush=True)
        sys.exit(1)
    print("ready", flush=True)
    # Whoever started this reads one line; the pipe is not to be kept.
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    reap()


if __name__ == "__main__":
    main()
