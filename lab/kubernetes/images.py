"""Container images without a registry: archives written by hand, or saved by the tool that built them."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import process
from lab.kubernetes.errors import MissingError, UsageError
from lab.kubernetes.machines import Machine

BUSYBOX = "lab.local/busybox:1"
COREDNS = "lab.local/coredns:1"
APPLETS = "sh sleep nc wget httpd ping ip cat ls echo env nslookup id mkdir kill date head grep sed seq tr wc"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def layer(files: Mapping[str, Path], links: Mapping[str, str]) -> bytes:
    """Return a tar file with the usual empty directories, ``files`` (path: source) and symbolic ``links``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(directory)
        for name, source in files.items():
            data = source.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    return buffer.getvalue()


def write_archive(path: Path, configs: Mapping[str, Mapping[str, object]], layers: Sequence[bytes | Path]) -> None:
    """Write an OCI image layout as a tar file (OCI image format, "Image Layout").

    ``configs`` has the execution parameters of each image by its name; all consist of the same ``layers``, tar files.
    """
    machine = platform.machine()
    digests = {_digest(content): content for content in layers}
    blobs: dict[str, bytes | Path] = dict(digests)
    kind = "application/vnd.oci.image"
    manifests = []
    for name, config in configs.items():
        configured = json.dumps(
            {
                "architecture": ARCHITECTURES.get(machine, machine),
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": list(digests)},
            }
        ).encode()
        manifested = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{kind}.manifest.v1+json",
                "config": _descriptor(f"{kind}.config.v1+json", configured),
                "layers": [_descriptor(f"{kind}.layer.v1.tar", content) for content in layers],
            }
        ).encode()
        annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
        manifests.append(_descriptor(f"{kind}.manifest.v1+json", manifested) | {"annotations": annotations})
        blobs |= {_digest(data): data for data in (configured, manifested)}
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": manifests}).encode(),
        **{f"blobs/sha256/{digest[7:]}": data for digest, data in blobs.items()},
    }
    with tarfile.open(path, "w") as tar:
        for entry, data in files.items():
            information = tarfile.TarInfo(entry)
            information.size, information.mode = _size(data), 0o644
            with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as source:
                tar.addfile(information, source)


def _digest(data: bytes | Path) -> str:
    if isinstance(data, bytes):
        return "sha256:" + hashlib.sha256(data).hexdigest()
    with data.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _size(data: bytes | Path) -> int:
    return len(data) if isinstance(data, bytes) else data.stat().st_size


def _descriptor(media_type: str, data: bytes | Path) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": _size(data)}


def write_busybox(path: Path) -> None:
    """Write the image that pods of the tests run, and every pod's sandbox: a static busybox that sleeps."""
    program = shutil.which("busybox")
    if program is None:
        raise MissingError("busybox is not there (Debian: apt-get install busybox-static)")
    links = {f"bin/{applet}": "busybox" for applet in APPLETS.split()}
    content = layer({"bin/busybox": Path(program)}, links)
    write_archive(path, {BUSYBOX: {"Entrypoint": ["/bin/sleep", "2147483647"], "Env": ["PATH=/bin"]}}, [content])


def write_program(path: Path, name: str, program: Path) -> None:
    """Write an image that holds one static program and runs it."""
    write_archive(path, {name: {"Entrypoint": [f"/{program.name}"]}}, [layer({program.name: program}, {})])


def save(image: str, path: Path) -> None:
    """Write an image that buildah, podman or docker has to a file; the name stays.

    Raises UsageError when none of them has it.
    """
    tools = [tool for tool in ("buildah", "podman", "docker") if shutil.which(tool)]
    if not tools:
        raise MissingError("buildah, podman or docker is needed (Debian: apt-get install buildah)")
    for tool in tools:
        if process.run([tool, "inspect", "--type", "image", image], check=False, timeout=30).returncode == 0:
            path.unlink(missing_ok=True)
            command = [tool, "push", image, f"docker-archive:{path}:{image}"]
            if tool == "docker":
                command = [tool, "save", "-o", str(path), image]
            process.run(command, timeout=300)
            return
    raise UsageError(f"{' and '.join(tools)} know no image {image} (scripts/build-images makes the project's)")


def import_into(machines: Sequence[Machine], archive: Path, ctr: Path) -> None:
    """Give an archive to the containerd of each machine, side by side."""

    def one(machine: Machine) -> None:
        machine.run([str(ctr), "-n", "k8s.io", "images", "import", str(archive)], timeout=300)

    with ThreadPoolExecutor(len(machines)) as pool:
        list(pool.map(one, machines))
