"""The go.mod of the `kube` binary follows from that of the Kubernetes version."""

from __future__ import annotations

import pytest

from lab.kubernetes.errors import MissingError
from lab.kubernetes.gomod import KUBERNETES, go_mod, go_version

UPSTREAM = """// This is a generated file. Do not edit directly.

module k8s.io/kubernetes

go 1.26.0

godebug default=go1.26

require (
	github.com/spf13/cobra v1.10.2
	go.etcd.io/etcd/client/v3 v3.7.0
	k8s.io/api v0.0.0
	k8s.io/utils v0.0.0-20260626114624-be93311217bd
)

require (
	go.etcd.io/etcd/server/v3 v3.7.1 // indirect
)

replace (
	k8s.io/kubectl => ./staging/src/k8s.io/kubectl
	k8s.io/api => ./staging/src/k8s.io/api
)
"""


def test_staging_modules_get_the_version_with_major_zero() -> None:
    assert (
        go_mod(KUBERNETES, "1.37.2", UPSTREAM)
        == """module kube

go 1.26.0

godebug default=go1.26

require (
	k8s.io/kubernetes v1.37.2
	go.etcd.io/etcd/server/v3 v3.7.1
	k8s.io/component-base v0.37.2
	k8s.io/kubectl v0.37.2
	github.com/spf13/cobra v1.10.2
)

replace (
	k8s.io/api => k8s.io/api v0.37.2
	k8s.io/kubectl => k8s.io/kubectl v0.37.2
)
"""
    )


def test_another_module_s_own_requirements_are_enough() -> None:
    text = go_mod("github.com/coredns/coredns", "1.14.7", "module github.com/coredns/coredns\n\ngo 1.25.0\n")
    assert text == "module program\n\ngo 1.25.0\n\nrequire github.com/coredns/coredns v1.14.7\n"


def test_etcd_is_the_client_s_version_where_the_server_is_not_named() -> None:
    upstream = UPSTREAM.replace("\tgo.etcd.io/etcd/server/v3 v3.7.1 // indirect\n", "")
    assert "\tgo.etcd.io/etcd/server/v3 v3.7.0\n" in go_mod(KUBERNETES, "1.37.2", upstream)


@pytest.mark.parametrize(("line", "version"), [("go 1.26.0", (1, 26, 0)), ("go 1.22", (1, 22))])
def test_the_lowest_go(line: str, version: tuple[int, ...]) -> None:
    assert go_version(UPSTREAM.replace("go 1.26.0", line)) == version


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(MissingError, match=r"go\.mod of Kubernetes 2\.0\.0"):
        go_mod(KUBERNETES, "2.0.0", "module k8s.io/kubernetes\n")
