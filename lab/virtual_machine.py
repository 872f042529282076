"""A virtual machine with another kernel whose root file system is this machine's own.

QEMU boots the kernel with an initramfs that mounts the root of this machine read-only by 9p (virtio) below an overlay
in memory: programs, libraries and this checkout are there as they are here, and what is written there is gone at its
end. It has no network card. Its kernel logs to the first serial port; what a command prints goes to the second.
"""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.debian_kernels import Kernel

#: What the initramfs loads before it can mount the root.
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
#: Static, so that the initramfs needs no library.
BUSYBOX = "/bin/busybox"
#: Lines of the kernel that say that it, or something on it, is broken.
COMPLAINTS = ("BUG:", "Oops:", "WARNING:", "Kernel panic", "rcu_sched self-detected", "Out of memory")
#: Bytes that one read and write of 9p moves at most.
MSIZE = 524288
#: What a processor in software had better not offer: string instructions, each byte of which costs as much as an
#: instruction (the kernel and libc take loops then), and a fifth level of page tables.
LACKS = ",erms=off,fsrm=off,la57=off"
#: And what its kernel is told for the same reason: no string instructions for whole pages either, which are not filled
#: with zeros when somebody gets them, a second line of defence of Debian's kernels. All that makes a fifth of the time.
SPARES = "clearcpuid=rep_good init_on_alloc=0"

INIT = """#!/bin/busybox sh
# In the initramfs: mounts the root, and gives way to its init.
export PATH=/bin
/bin/busybox --install -s /bin
fail() {{ echo "initramfs: $*"; poweroff -f; }}
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev || fail "no proc, sys or dev"
for module in {modules}; do
    insmod /modules/$module || fail "$module does not load"
done
mkdir -p /lower /memory /root
mount -t 9p -o trans=virtio,version=9p2000.L,msize={msize},cache=loose,ro root /lower || fail "no root by 9p"
mount -t tmpfs -o size=90%,mode=755 memory /memory || fail "no tmpfs"
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work overlay /root || fail "no overlay"
cd /root || fail "no root"
# A mount point that is on another file system here comes along with what is on it; these are to be our own.
for directory in proc sys dev run tmp; do
    mkdir -p $directory
done
mount --move /proc proc && mount --move /sys sys && mount --move /dev dev || fail "a file system does not move"
mount -t tmpfs -o mode=755 run run && mount -t tmpfs -o mode=1777 tmp tmp || fail "no run or tmp"
mkdir run/job
mount -t 9p -o trans=virtio,version=9p2000.L,msize={msize},cache=none job run/job || fail "no job by 9p"
# Not chroot: the kernel looks for modprobe in the root of the first process.
exec switch_root /root /bin/sh /run/job/init
"""

STAGE_2 = """#!/bin/sh
# The first process on the root proper: the file systems that a machine has, then the command. Being the first, it
# also collects what daemons leave behind.
exec </dev/null >/dev/ttyS1 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME={home} LANG=C.UTF-8
mkdir -p /dev/pts /dev/shm /sys/fs/cgroup
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ln -sf /proc/self/fd /dev/fd
modules=$(readlink -f /lib)/modules
mkdir -p "$modules"
mount --bind {modules} "$modules" || echo "no modules"
hostname {hostname}
# The checkout as it was at the start, whatever is edited meanwhile: above what is there now, which has the rest of the
# directory (environments, what Python compiled).
mkdir /run/checkout /run/new /run/new-work
mount -t 9p -o trans=virtio,version=9p2000.L,msize={msize},cache=loose,ro checkout /run/checkout
mount -t overlay -o lowerdir=/run/checkout:{directory},upperdir=/run/new,workdir=/run/new-work overlay {directory}
ip link set lo up
cd {directory}
setsid sh /run/job/command &
wait $!
echo $? >/run/job/status
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


class BootFailed(Exception):
    """The virtual machine ended without a result of its command; the message holds the end of the kernel's log."""


class TimedOut(Exception):
    """The command took longer than it may."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: ``status`` is its exit code, ``complaints`` what the kernel said against itself."""

    status: int
    complaints: tuple[str, ...]
    seconds: float


def has_kvm() -> bool:
    """Return whether the processor virtualises for us. Where /dev/kvm is there without the processor's flag, as on some
    virtual machines, guests do not start.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    flags = next((row.split() for row in Path("/proc/cpuinfo").read_text().splitlines() if row.startswith("flags")), [])
    return "vmx" in flags or "svm" in flags


def run(
    kernel: Kernel,
    command: str,
    *,
    directory: Path,
    environment: Mapping[str, str],
    results: Path,
    root: Path = Path("/"),
    parameters: str = "",
    timeout: float,
    memory: int = 4096,
    output: Callable[[bytes], None],
) -> Outcome:
    """Boot ``kernel``, run the shell text ``command`` in ``directory`` as root, and return how it ended.

    ``environment`` is added to a fresh one. What the command prints goes to ``output`` as it comes. It may leave files
    in ``$RESULTS``, which are in ``results`` afterwards; ``kernel.log`` is the kernel's own. ``parameters`` are for the
    kernel (kernel-parameters.txt). ``timeout`` in seconds, ``memory`` in MiB. Raises TimedOut and BootFailed.
    """
    with tempfile.TemporaryDirectory(prefix="egress-router-vm-") as name:
        work = Path(name)
        initramfs = _initramfs(kernel, work)
        job = work / "job"
        (job / "results").mkdir(parents=True)
        variables = {**environment, "RESULTS": "/run/job/results"}
        exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables.items())
        (job / "command").write_text(f"{exports}{command}\n")
        (job / "init").write_text(
            STAGE_2.format(
                home=shlex.quote(str(Path.home())),
                modules=shlex.quote(str(kernel.modules)),
                hostname=f"linux-{kernel.line.replace('.', '-')}",
                directory=shlex.quote(str(directory)),
                msize=MSIZE,
            )
        )
        checkout = work / "checkout"
        _copy(directory, checkout)
        log = work / "kernel.log"
        started = time.monotonic()
        try:
            shares = {"root": root, "checkout": checkout, "job": job}
            _boot(_qemu(kernel, initramfs, shares, log, memory, parameters), timeout, output)
            status = job / "status"
            if not status.exists():
                tail = "\n".join(_lines(log)[-30:])
                raise BootFailed(
                    f"the virtual machine ended before its command did; the end of its kernel's log:\n{tail}"
                )
            return Outcome(
                int(status.read_text()),
                tuple(row for row in _lines(log) if any(word in row for word in COMPLAINTS)),
                time.monotonic() - started,
            )
        finally:
            shutil.copytree(job / "results", results, dirs_exist_ok=True)
            if log.exists():
                shutil.copy(log, results / "kernel.log")


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.exists() else []


def _qemu(
    kernel: Kernel, initramfs: Path, shares: Mapping[str, Path], log: Path, memory: int, parameters: str
) -> list[str]:
    """Return the command line of QEMU. ``shares`` are directories to be mounted, by tag; ``job`` is writable."""
    if has_kvm():
        processor = ["-accel", "kvm", "-cpu", "host", "-smp", str(os.cpu_count() or 1)]
        slow = ""
    else:
        # An instruction takes a nanosecond by the clock of the virtual machine, so that time-outs there mean the same
        # however slow the emulation is and whatever else runs here. Such a clock wants one processor.
        processor = ["-accel", "tcg", "-cpu", f"max{LACKS}", "-smp", "1", "-icount", "shift=0"]
        slow = SPARES
    return [
        # It ends with us, however we end.
        *("setpriv", "--pdeathsig", "KILL"),
        *("qemu-system-x86_64", *processor, "-m", str(memory)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"),
        *("-kernel", str(kernel.image), "-initrd", str(initramfs)),
        *("-append", f"console=ttyS0 panic=-1 rdinit=/init loglevel=6 mitigations=off {slow} {parameters}"),
        *("-serial", f"file:{log}", "-serial", "stdio"),
        *(word for tag, path in shares.items() for word in _share(tag, path, writable=tag == "job")),
        # Random numbers: without it programs wait for them at the start.
        *("-device", "virtio-rng-pci"),
    ]


def _boot(command: Sequence[str], timeout: float, output: Callable[[bytes], None]) -> None:
    """Run QEMU to its end; kill it when it takes longer than ``timeout`` or when we are interrupted."""
    # A group of its own: Ctrl-C on the terminal is for us, and we end it.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert process.stdout is not None
    deadline = time.monotonic() + timeout
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimedOut(f"not at its end after {timeout:.0f} s")
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    break
                output(chunk.replace(b"\r\n", b"\n"))
        process.wait(10)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def _share(tag: str, path: Path, *, writable: bool) -> list[str]:
    """Return the options that offer a directory by 9p."""
    how = "security_model=none" if writable else "security_model=none,readonly=on,multidevs=remap"
    return ["-fsdev", f"local,id={tag},path={path},{how}", "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def _copy(directory: Path, target: Path) -> None:
    """Copy what git knows of a checkout, and what is new in it, with its times: Python compares them with its cache."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=directory,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    present = [name for name in listed.split(b"\0") if name and (directory / os.fsdecode(name)).exists()]
    target.mkdir()
    copying = ["cpio", "--null", "--pass-through", "--make-directories", "--preserve-modification-time", "--quiet"]
    subprocess.run([*copying, str(target)], cwd=directory, input=b"\0".join(present), check=True)


def _initramfs(kernel: Kernel, work: Path) -> Path:
    """Make the first root file system: busybox, the modules that the real root needs, and ``INIT``."""
    tree = work / "initramfs"
    for directory in ("bin", "modules", "proc", "sys", "dev"):
        (tree / directory).mkdir(parents=True)
    shutil.copy(BUSYBOX, tree / "bin/busybox")
    names = []
    for file in kernel.files_of(MODULES):
        # The kernel loads them as they are; only modprobe would unpack them.
        target = tree / "modules" / file.name.removesuffix(".xz")
        if file.suffix == ".xz":
            with target.open("wb") as unpacked:
                subprocess.run(["xz", "-dc", str(file)], stdout=unpacked, check=True)
        else:
            shutil.copy(file, target)
        names.append(target.name)
    init = tree / "init"
    init.write_text(INIT.format(modules=" ".join(names), msize=MSIZE))
    init.chmod(0o755)
    files = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*")))
    archive = work / "initramfs.cpio"
    with archive.open("wb") as written:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=files.encode(), stdout=written, check=True
        )
    return archive


def to_terminal(chunk: bytes) -> None:
    """Pass on what a command prints."""
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
