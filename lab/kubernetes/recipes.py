"""How each program is built. Versions and module lists are the pin; Go's checksum database checks what is fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lab.kubernetes import gomod, versions

SOURCES = Path(__file__).parent / "go"


def linked(values: Mapping[str, str]) -> tuple[str, ...]:
    """Return the flags of small programs whose variables (by package and name) the linker sets: as releases have it."""
    said = "".join(f" -X {name}={value}" for name, value in values.items())
    return ("-trimpath", "-ldflags", f"-s -w{said}")


#: Strip paths, symbols and debug information.
SMALL = linked({})


@dataclass(frozen=True, slots=True)
class Recipe:
    """A set of programs that are built together.

    ``packages`` are Go packages with ``@version``, for `go install`; a recipe without them is one program, whose
    ``main`` is in ``sources`` (in ``go/``), around the parts of ``module``. ``needs`` are headers that C code includes,
    with the Debian package of each.
    """

    name: str
    version: str
    programs: tuple[str, ...]
    packages: tuple[str, ...] = ()
    flags: tuple[str, ...] = SMALL
    environment: tuple[tuple[str, str], ...] = (("CGO_ENABLED", "0"),)
    needs: tuple[tuple[str, str], ...] = ()
    sources: tuple[str, ...] = ("etcd.go", "main.go")
    module: str = gomod.KUBERNETES

    @property
    def folder(self) -> str:
        """The name of its folder in the cache: another recipe of the same version has another."""
        said = repr((self.packages, self.flags, self.environment))
        if not self.packages:
            said += "".join((SOURCES / name).read_text() for name in self.sources)
        return f"{self.name}-{self.version}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def kube(version: str = versions.KUBERNETES) -> Recipe:
    """API server with etcd, controller-manager, scheduler, kubelet, kube-proxy and kubectl in one binary."""
    minor = version.split(".")[1]
    named = "k8s.io/component-base/version.git"
    # Without these the server says v0.0.0, and so do the nodes.
    flags = linked({f"{named}Version": f"v{version}", f"{named}Major": "1", f"{named}Minor": minor})
    return Recipe("kube", version, ("kube",), flags=flags)


def api_server(version: str = versions.KUBERNETES) -> Recipe:
    """API server with etcd, and kubectl: of another version than the one that whole clusters have.

    Of old versions the rest is not to be had as Go modules.
    """
    whole = kube(version)
    if version == versions.KUBERNETES:
        return whole
    return replace(whole, name="kube-apiserver", sources=("etcd.go", "apiserver/main.go"))


def containerd() -> Recipe:
    """containerd, its shim and its client."""
    programs = ("containerd", "containerd-shim-runc-v2", "ctr")
    path = "github.com/containerd/containerd/v2/cmd"
    return Recipe(
        "containerd",
        versions.CONTAINERD,
        programs,
        tuple(f"{path}/{program}@v{versions.CONTAINERD}" for program in programs),
        ("-tags", "no_btrfs,no_devmapper,no_zfs", *SMALL),
    )


def runc() -> Recipe:
    """Build runc, with seccomp: kubelet's RuntimeDefault profile needs it."""
    return Recipe(
        "runc",
        versions.RUNC,
        ("runc",),
        (f"github.com/opencontainers/runc@v{versions.RUNC}",),
        ("-tags", "seccomp", *SMALL),
        (("CGO_ENABLED", "1"),),
        (("seccomp.h", "libseccomp-dev"),),
    )


def coredns() -> Recipe:
    """Build the cluster's DNS server with the plugins that the Corefile names: all would be three times the work."""
    module = "github.com/coredns/coredns"
    return Recipe("coredns", versions.COREDNS, ("coredns",), sources=("coredns/main.go",), module=module)


def kube_router() -> Recipe:
    """A network plugin: routes by BGP, NetworkPolicy."""
    package = f"github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@v{versions.KUBE_ROUTER}"
    return Recipe("kube-router", versions.KUBE_ROUTER, ("kube-router",), (package,))


def helm() -> Recipe:
    """Renders and judges the chart (tests/charts)."""
    major, minor = versions.KUBERNETES.split(".")[:2]
    named = "helm.sh/helm/v3/pkg"
    # As in a release: without these charts are rendered for Kubernetes 1.20 where no server is asked.
    flags = linked(
        {
            f"{named}/{where}.k8sVersion{part}": value
            for where in ("chartutil", "lint/rules")
            for part, value in (("Major", major), ("Minor", minor))
        }
    )
    package = f"helm.sh/helm/v3/cmd/helm@v{versions.HELM}"
    return Recipe("helm", versions.HELM, ("helm",), (package,), flags)


def kustomize() -> Recipe:
    """Builds the bases that the chart is compared with."""
    package = f"sigs.k8s.io/kustomize/kustomize/v5@v{versions.KUSTOMIZE}"
    return Recipe("kustomize", versions.KUSTOMIZE, ("kustomize",), (package,))
