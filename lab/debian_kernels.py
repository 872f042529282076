"""Kernels of Debian releases: downloaded as packages and unpacked into a cache. Nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Kernel line -> the Debian release whose ``linux-image-amd64`` it is.
SUITES = {"6.1": "bookworm", "6.12": "trixie"}
#: Where packages come from when this machine's apt knows no Debian archive (as on Ubuntu).
ARCHIVE = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class KernelUnavailable(Exception):
    """A kernel could not be fetched; the message says what failed and what the tool printed."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package. ``directory`` holds ``boot/`` and ``lib/modules/`` with its module tree."""

    line: str
    version: str
    directory: Path

    @property
    def image(self) -> Path:
        """The kernel image, as a boot loader takes it."""
        (image,) = (self.directory / "boot").glob("vmlinuz-*")
        return image

    @property
    def release(self) -> str:
        """What ``uname -r`` prints there."""
        return self.image.name.removeprefix("vmlinuz-")

    @property
    def modules(self) -> Path:
        """The directory that becomes ``/lib/modules``."""
        return _modules(self.directory)

    def files_of(self, names: Sequence[str]) -> list[Path]:
        """Return the files of modules and of what they need, in the order in which they are to be loaded."""
        files: dict[Path, None] = {}
        for name in names:
            shown = _run(["modprobe", "-d", str(self.directory), "-S", self.release, "--show-depends", name])
            for line in shown.splitlines():
                # "builtin NAME" is in the kernel already.
                if line.startswith("insmod "):
                    files[Path(line.split()[1])] = None
        return list(files)


def cache_directory() -> Path:
    """Return where kernels are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "egress-router" / "kernels"


def cached(line: str) -> Kernel | None:
    """Return the kernel of a line that was fetched last, None when there is none."""
    try:
        version = (cache_directory() / line / "version").read_text().strip()
    except FileNotFoundError:
        return None
    return Kernel(line, version, cache_directory() / line / version)


def fetch(line: str) -> Kernel:
    """Download and unpack the newest kernel package of a line; what is in the cache already is not loaded again.

    The apt of this machine is asked, with its mirrors and settings, but with a state of its own: neither its package
    lists nor its sources change. Raises KernelUnavailable.
    """
    suite = SUITES[line]
    home = cache_directory() / line
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix="fetch-") as name:
        work = Path(name)
        # apt's own user may write what it downloads.
        work.chmod(0o755)
        options = _apt_options(work, suite)
        _run(["apt-get", *options, "update"])
        package, version = _image_package(_run(["apt-cache", *options, "show", "linux-image-amd64"]))
        target = home / version
        if not target.is_dir():
            _run(["apt-get", *options, "download", package], cwd=work)
            (archive,) = work.glob(f"{package}_*.deb")
            unpacked = work / "unpacked"
            _run(["dpkg-deb", "-x", str(archive), str(unpacked)])
            _index(unpacked)
            unpacked.rename(target)
    for old in home.iterdir():
        if old.is_dir() and old != target and not old.name.startswith("fetch-"):
            shutil.rmtree(old)
    (home / "version").write_text(version + "\n")
    return Kernel(line, version, target)


def _modules(directory: Path) -> Path:
    """Return the module trees of an unpacked package: from Debian 13 on they are below /usr."""
    usr = directory / "usr/lib/modules"
    return usr if usr.is_dir() else directory / "lib/modules"


def _index(unpacked: Path) -> None:
    """Write the indexes that modprobe reads (modules.dep and so on); it looks for them below lib/modules."""
    modules = _modules(unpacked)
    if not (unpacked / "lib").exists():
        (unpacked / "lib").symlink_to("usr/lib")
    (release,) = (entry.name for entry in modules.iterdir())
    _run(["depmod", "-b", str(unpacked), release])


def _image_package(shown: str) -> tuple[str, str]:
    """Return name and version of the package behind ``linux-image-amd64``, from what ``apt-cache show`` printed.

    The first record is the newest. Its version is the kernel's; versions hold no character that a path could not.
    """
    fields = dict(row.split(": ", 1) for row in shown.split("\n\n", 1)[0].splitlines() if ": " in row)
    package = fields["Depends"].split(",")[0].split()[0]
    return package, fields["Version"]


def _apt_options(work: Path, suite: str) -> list[str]:
    """Write the sources of a suite; return the options that make apt use these and keep its state in ``work``."""
    archive, security = _mirrors()
    signed = f"[signed-by={KEYRING} arch=amd64]"
    (work / "sources.list").write_text(
        f"deb {signed} {archive} {suite} main\n"
        f"deb {signed} {archive} {suite}-updates main\n"
        f"deb {signed} {security} {suite}-security main\n"
    )
    for part in ("state/lists/partial", "cache/archives/partial"):
        (work / part).mkdir(parents=True)
    (work / "status").touch()
    settings = {
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": work / "state",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    return ["-q", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]


def _mirrors() -> tuple[str, str]:
    """Return the Debian archive and its security archive, those that this machine's apt uses if it does."""
    archive, security = ARCHIVE, SECURITY
    shown = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    for row in shown.splitlines():
        origin, _, rest = row.partition(" ")
        label, _, uri = rest.rpartition(" ")
        if origin == "Debian" and label == "Debian":
            archive = uri
        elif origin == "Debian" and label == "Debian-Security":
            security = uri
    return archive, security


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    """Run a command to its end and return its output."""
    try:
        done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise KernelUnavailable(f"{command[0]} is not installed") from None
    if done.returncode != 0:
        raise KernelUnavailable(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
