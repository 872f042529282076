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
APPLETS = "sh sleep nc wget httpd ping ip cat ls echo env nslookup id mkdir kill date head grep seq tr wc"
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


def write_archive(path: Path, name: str, content: bytes, entrypoint: Sequence[str]) -> None:
    """Write an OCI image layout with one image of one layer, as a tar file (OCI image format, "Image Layout")."""
    machine = platform.machine()
    config = {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(content)]},
    }
    configured = json.dumps(config).encode()
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": _descriptor(f"{kind}.config.v1+json", configured),
        "layers": [_descriptor(f"{kind}.layer.v1.tar", content)],
    }
    manifested = json.dumps(manifest).encode()
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    index = {
        "schemaVersion": 2,
        "manifests": [_descriptor(f"{kind}.manifest.v1+json", manifested) | {"annotations": annotations}],
    }
    blobs = {f"blobs/sha256/{_digest(data)[7:]}": data for data in (configured, content, manifested)}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode(), **blobs}
    with tarfile.open(path, "w") as tar:
        for entry, data in files.items():
            information = tarfile.TarInfo(entry)
            information.size, information.mode = len(data), 0o644
            tar.addfile(information, io.BytesIO(data))


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def write_busybox(path: Path) -> None:
    """Write the image that pods of the tests run, and every pod's sandbox: a static busybox that sleeps."""
    program = shutil.which("busybox")
    if program is None:
        raise MissingError("busybox is not there (Debian: apt-get install busybox-static)")
    links = {f"bin/{applet}": "busybox" for applet in APPLETS.split()}
    content = layer({"bin/busybox": Path(program)}, links)
    write_archive(path, BUSYBOX, content, ["/bin/sleep", "2147483647"])


def write_program(path: Path, name: str, program: Path) -> None:
    """Write an image that holds one static program and runs it."""
    write_archive(path, name, layer({program.name: program}, {}), [f"/{program.name}"])


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
