"""Objects that tests apply; their pods run busybox."""

from __future__ import annotations

from typing import Any

from lab.kubernetes.images import BUSYBOX

WEB = "cd /tmp && echo hello from $(cat /etc/hostname) > index.html && exec httpd -f -p 8080"


def pod_spec(command: str = "exec sleep 2147483647", **more: Any) -> dict[str, Any]:
    container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", command]}
    return {"terminationGracePeriodSeconds": 0, "containers": [container], **more}


def pod(name: str, node: str, command: str = "exec sleep 2147483647") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": pod_spec(command, nodeName=node),
    }


def daemon_set(name: str, command: str) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod_spec(command)},
        },
    }


def service(name: str, port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "selector": {"app": name},
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [{"port": port, "targetPort": 8080}],
        },
    }
