"""Further networks of pods: NetworkAttachmentDefinitions, and the plugin that follows them (children/networks.py)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lab.kubernetes.api_server import ApiServer
from lab.kubernetes.children import networks
from lab.kubernetes.machines import Machine

PROGRAM = "/opt/cni/bin/lab-networks"


def definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition of NetworkAttachmentDefinition, as the de-facto standard has it."""
    config = {"type": "object", "properties": {"config": {"type": "string"}}}
    schema = {"type": "object", "properties": {"spec": config}}
    names = {
        "kind": "NetworkAttachmentDefinition",
        "plural": "network-attachment-definitions",
        "singular": "network-attachment-definition",
        "shortNames": ["net-attach-def"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "network-attachment-definitions.k8s.cni.cncf.io"},
        "spec": {
            "group": "k8s.cni.cncf.io",
            "scope": "Namespaced",
            "names": names,
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}},
            ],
        },
    }


def conflist(default: str, server: ApiServer) -> str:
    """Return the CNI configuration that puts the plugin before the cluster's own network."""
    plugin = {
        "type": Path(PROGRAM).name,
        "default": json.loads(default),
        "host": server.endpoint.address,
        "port": server.endpoint.port,
        "ca": str(server.ca),
        "token": server.token,
        "parent": "eth0",
        "state": "/var/lib/cni/lab-networks",
        "capabilities": {"portMappings": True},
    }
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [plugin]}, indent=1)


def install(node: Machine) -> None:
    """Put the plugin where the runtime of a node looks for it."""
    script = f'#!/bin/sh\nexec "{sys.executable}" -I -S "{networks.__file__}"\n'
    node.run(["sh", "-c", f"mkdir -p /opt/cni/bin && cat > {PROGRAM} && chmod 755 {PROGRAM}"], input=script)
