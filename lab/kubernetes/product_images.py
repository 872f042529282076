"""The project's images without a build: this machine's Python and programs, and the code of this checkout.

scripts/build-images makes those that are shipped, in minutes; tests and whoever tries a change get these in seconds,
under the same names and with the same entry points, users and variables. What changes rarely is one layer, the code
another; both are kept in the cache by what is in them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import os
import py_compile
import re
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import egress_router
from lab import process
from lab.kubernetes import cache
from lab.kubernetes.errors import MissingError
from lab.kubernetes.images import write_archive
from lab.kubernetes.machines import CHECKOUT

TAG = egress_router.__version__
HOME = Path("/opt/egress-router")
#: Image, arguments of its entry point, user: as the Containerfiles have it.
IMAGES: tuple[tuple[str, list[str], str], ...] = (
    ("init", ["init"], "0"),
    ("proxy", ["http-proxy"], "1001"),
    ("dns", ["dns-proxy"], "1001"),
    ("node", [], "0"),
)
PROGRAMS = ("nft", "squid", "haproxy", "ldconfig")
#: Without these directories of the standard library, as images/install-python.
UNUSED = ("test", "idlelib", "ensurepip", "site-packages", "dist-packages", "lib2to3", "pydoc_data", "turtledemo")
APPLETS = ("sh", "cat", "ls", "env", "sleep", "id", "mkdir", "rm", "cp", "kill", "grep", "head", "tail", "date", "wc")
#: Seconds that a layer which nobody asks for stays in the cache.
KEPT = 86400.0
PATH = f"{HOME}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def names(tag: str = TAG) -> list[str]:
    """Return the images' names, as `egress-router manifests` writes them."""
    return [f"localhost/egress-router-{name}:{tag}" for name, _, _ in IMAGES]


def write(path: Path, tag: str = TAG) -> None:
    """Write an archive with all images, to be imported. Raises MissingError when this machine lacks a program."""
    layers = [_base_layer(), _code_layer()]
    configs = {
        f"localhost/egress-router-{name}:{tag}": {
            "Entrypoint": [f"{HOME}/bin/egress-router", *words],
            "User": user,
            "Env": [f"PATH={PATH}", f"PYTHONPATH={HOME}/lib", "PYTHONDONTWRITEBYTECODE=1"],
            "Labels": {"org.opencontainers.image.version": tag},
        }
        for name, words, user in IMAGES
    }
    write_archive(path, configs, layers)


def _base_files() -> dict[Path, Path]:
    """Return what is in the base, by its place in the image: programs with their libraries, Python with packages."""
    found: dict[Path, Path] = {}
    wanted = [_program(name) for name in PROGRAMS] + sorted(Path("/usr/sbin").glob("ip*tables*"))
    wanted += [path for place in Path("/usr/lib").glob("*/xtables") for path in place.iterdir()]
    wanted += [Path("/usr/lib/squid/unlinkd"), Path("/usr/share/squid/mime.conf"), Path("/etc/squid/errorpage.css")]
    wanted += [*Path("/usr/share/squid/icons").rglob("*"), *Path("/usr/lib").glob("*/libkeepalive.so*")]
    wanted += [Path("/etc/ld.so.cache"), Path("/etc/nsswitch.conf"), Path("/etc/protocols"), Path("/etc/services")]
    wanted += list(_python())
    programs = [path for path in wanted if path.is_file() and _is_elf(path)]
    for path in [*wanted, *_libraries(programs)]:
        found |= _with_targets(path)
    for distribution in _packages():
        for file in distribution.files or ():
            if ".." not in file.parts:
                found[HOME / "lib" / file] = Path(str(distribution.locate_file(file)))
    return {place: source for place, source in found.items() if source.is_symlink() or source.is_file()}


def _program(name: str) -> Path:
    for folder in ("/usr/sbin", "/usr/bin", "/usr/local/sbin"):
        if (path := Path(folder, name)).exists():
            return path
    raise MissingError(f"{name} is not there, which the images need (scripts/test installs what is missing)")


def _python() -> Iterator[Path]:
    """Yield the interpreter and its standard library, where they are."""
    yield Path(sys.executable).resolve()
    for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        base = Path(folder)
        for path in base.rglob("*"):
            inside = path.relative_to(base).parts
            if not {"test", "tests", *UNUSED}.intersection(inside) and not inside[0].startswith("config-"):
                yield path


def _packages() -> Iterable[importlib.metadata.Distribution]:
    pins = (CHECKOUT / "requirements" / "run.txt").read_text()
    return [importlib.metadata.distribution(name) for name in re.findall(r"^([\w-]+)==", pins, re.MULTILINE)]


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(programs: Iterable[Path]) -> list[Path]:
    """Return the shared libraries of programs and modules, and the loader (ldd(1))."""
    told = process.run(["ldd", *map(str, programs)], check=False, timeout=60).stdout
    return [Path(path) for path in sorted(set(re.findall(r"(/\S+) \(0x", told)))]


def _with_targets(path: Path) -> dict[Path, Path]:
    """Return a file with its place; where it is a symbolic link, also what that leads to."""
    place = path.parent.resolve() / path.name
    found = {place: place}
    if place.is_symlink():
        found |= _with_targets(place.parent / place.readlink())
    return found


def _base_layer() -> Path:
    """Return the layer with what does not come from this checkout."""
    files = _base_files()
    known = [
        f"{place}\0{source}\0{source.lstat().st_size}\0{source.lstat().st_mtime_ns}" for place, source in files.items()
    ]

    def fill(tar: tarfile.TarFile) -> None:
        folders = {folder for place in files for folder in place.parents} - {Path("/")}
        for folder in sorted(folders | {Path(name) for name in ("/dev", "/proc", "/sys", "/etc", "/run")}):
            _add_folder(tar, folder)
        _add_folder(tar, Path("/tmp"), 0o1777)  # noqa: S108 - a place in the image
        for link, target in (("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")):
            _add_link(tar, link, target)
        for place, source in files.items():
            _add(tar, place, source)
        _add(tar, Path("/usr/bin/busybox"), _program("busybox"))
        for applet in APPLETS:
            _add_link(tar, f"usr/bin/{applet}", "busybox")
        accounts = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        _add_text(tar, "etc/passwd", accounts)
        _add_text(tar, "etc/group", "root:x:0:\nnogroup:x:65534:\n")

    return _cached("base", "\n".join(sorted(known)), fill)


def _code_layer() -> Path:
    """Return the layer with this checkout's code, compiled: a read-only root cannot keep bytecode."""
    package = CHECKOUT / "egress_router"
    sources = sorted(path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc")
    known = [f"{path}\0{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sources]

    def fill(tar: tarfile.TarFile) -> None:
        for source in sources:
            place = HOME / "lib" / source.relative_to(CHECKOUT)
            _add(tar, place, source)
            if source.suffix == ".py":
                compiled = importlib.util.cache_from_source(str(place))
                _add_bytes(tar, compiled, _bytecode(source, place))
        start = f"#!{Path(sys.executable).resolve()}\nfrom egress_router.cli.main import main\nmain()\n"
        _add_text(tar, f"{HOME}/bin/egress-router", start, 0o755)
        _add_folder(tar, Path("/run/egress-router"), 0o775)

    return _cached("code", "\n".join(known), fill)


def _bytecode(source: Path, place: Path) -> bytes:
    """Return a module's bytecode that is used without a look at the source (PEP 552, unchecked)."""
    with tempfile.TemporaryDirectory() as folder:
        made = py_compile.compile(
            str(source),
            f"{folder}/made.pyc",
            str(place),
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        return Path(str(made)).read_bytes()


def _cached(name: str, known: str, fill: Callable[[tarfile.TarFile], None]) -> Path:
    """Return the layer that ``known`` describes from the cache, filled when it is not there; old ones go."""
    folder = cache.folder()
    digest = hashlib.sha256(Path(__file__).read_bytes() + known.encode()).hexdigest()[:16]
    target = folder / f"image-{name}-{digest}.tar"
    if target.exists():
        target.touch()
        return target
    folder.mkdir(parents=True, exist_ok=True)
    handle, new = tempfile.mkstemp(dir=folder, prefix=f"image-{name}-", suffix=".unfinished")
    try:
        with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            fill(tar)
        Path(new).rename(target)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise
    for old in folder.glob(f"image-{name}-*"):
        if old != target and old.stat().st_mtime < time.time() - KEPT:
            old.unlink(missing_ok=True)
    return target


def _add(tar: tarfile.TarFile, place: Path, source: Path) -> None:
    entry = tar.gettarinfo(source, str(place))
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = (entry.mode | 0o444) & 0o777
    if entry.isreg():
        with source.open("rb") as file:
            tar.addfile(entry, file)
    else:
        tar.addfile(entry)


def _add_folder(tar: tarfile.TarFile, place: Path, mode: int = 0o755) -> None:
    entry = tarfile.TarInfo(str(place).lstrip("/"))
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def _add_link(tar: tarfile.TarFile, place: str, target: str) -> None:
    entry = tarfile.TarInfo(place)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _add_text(tar: tarfile.TarFile, place: str, text: str, mode: int = 0o644) -> None:
    _add_bytes(tar, place, text.encode(), mode)


def _add_bytes(tar: tarfile.TarFile, place: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(place.lstrip("/"))
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
