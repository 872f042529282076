"""A CNI plugin that gives pods the cluster's network and the further ones that their annotations ask for.

It does what Multus does with the annotation ``k8s.v1.cni.cncf.io/networks`` and NetworkAttachmentDefinitions
(Kubernetes Network Custom Resource Definition De-facto Standard, version 1.3), as far as the project's manifests use
it, and what OpenShift SDN does with ``pod.network.openshift.io/assign-macvlan``. Its configuration:

{"type": "lab-networks", "default": {a conflist}, "host": "192.0.2.10", "port": 6443, "ca": path, "token": text,
 "parent": NIC of the node, "state": folder}

Called as the CNI specification 1.0.0 says. What was attached is kept in ``state``, since the pod may be gone at DEL.
Standard library only.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

ANNOTATION = "k8s.v1.cni.cncf.io/networks"
MACVLAN = "pod.network.openshift.io/assign-macvlan"


class Refused(Exception):
    """What a pod asks for cannot be given."""


def delegate(conflist: dict[str, Any], interface: str, command: str) -> dict[str, Any]:
    """Run the plugins of a network for ADD, or in reverse order for DEL; return the last result."""
    result: dict[str, Any] = {}
    plugins = conflist["plugins"] if command == "ADD" else list(reversed(conflist["plugins"]))
    for plugin in plugins:
        config = {"cniVersion": conflist["cniVersion"], "name": conflist["name"], **plugin}
        kept = result if command == "ADD" else conflist.get("result", {})
        if kept:
            config["prevResult"] = kept
        for place in os.environ["CNI_PATH"].split(":"):
            program = Path(place, plugin["type"])
            if program.exists():
                break
        else:
            raise Refused(f"no plugin {plugin['type']} in {os.environ['CNI_PATH']}")
        done = subprocess.run(
            [program],
            input=json.dumps(config),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "CNI_IFNAME": interface, "CNI_COMMAND": command},
        )
        if done.returncode != 0:
            raise Refused(f"{plugin['type']} for {conflist['name']}: {(done.stdout or done.stderr).strip()}")
        result = json.loads(done.stdout) if done.stdout.strip() else result
    return result


def get(config: dict[str, Any], path: str) -> dict[str, Any]:
    """Return an object of the API server."""
    context = ssl.create_default_context(cafile=config["ca"])
    # The lab's authority is a plain one of OpenSSL's, which Python 3.13 is too strict for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    connection = http.client.HTTPSConnection(config["host"], config["port"], timeout=10, context=context)
    connection.request("GET", path, headers={"Authorization": f"Bearer {config['token']}"})
    answer = connection.getresponse()
    found: dict[str, Any] = json.load(answer)
    if answer.status != 200:
        raise Refused(f"{path}: {found.get('message', answer.status)}")
    return found


def selections(text: str) -> list[dict[str, Any]]:
    """Return the networks that an annotation names: a JSON list, or ``[namespace/]name[@interface]`` with commas."""
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    found = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        where, _, interface = item.partition("@")
        namespace, _, name = where.rpartition("/")
        chosen = {"name": name}
        if namespace:
            chosen["namespace"] = namespace
        if interface:
            chosen["interface"] = interface
        found.append(chosen)
    return found


def wanted(config: dict[str, Any], namespace: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the further networks of a pod: the interface's name and the conflist of each."""
    annotations = get(config, f"/api/v1/namespaces/{namespace}/pods/{name}")["metadata"].get("annotations", {})
    found = []
    for number, chosen in enumerate(selections(annotations.get(ANNOTATION, ""))):
        group = f"/apis/k8s.cni.cncf.io/v1/namespaces/{chosen.get('namespace', namespace)}"
        definition = get(config, f"{group}/network-attachment-definitions/{chosen['name']}")
        text = json.loads(definition["spec"]["config"])
        if "plugins" not in text:
            inner = {key: value for key, value in text.items() if key not in ("cniVersion", "name")}
            text = {"cniVersion": text["cniVersion"], "name": text.get("name", chosen["name"]), "plugins": [inner]}
        found.append((chosen.get("interface", f"net{number + 1}"), text))
    if annotations.get(MACVLAN) == "true":
        plugin = {"type": "macvlan", "master": config["parent"], "mode": "private", "ipam": {}}
        found.append(("macvlan0", {"cniVersion": "0.3.1", "name": "assign-macvlan", "plugins": [plugin]}))
    return found


def add(config: dict[str, Any], note: Path) -> dict[str, Any]:
    """Attach a pod to its networks, the cluster's first; return that one's result."""
    arguments = dict(pair.split("=", 1) for pair in os.environ.get("CNI_ARGS", "").split(";") if "=" in pair)
    more = wanted(config, arguments["K8S_POD_NAMESPACE"], arguments["K8S_POD_NAME"])
    default = config["default"]
    if ports := config.get("runtimeConfig"):
        for plugin in default["plugins"]:
            if "capabilities" in plugin:
                plugin["runtimeConfig"] = ports
    attached: list[tuple[str, dict[str, Any]]] = []
    for interface, conflist in [(os.environ["CNI_IFNAME"], default), *more]:
        # Noted before it is done: a DEL after half an ADD takes away what there is.
        attached.append((interface, conflist))
        note.write_text(json.dumps(attached))
        conflist["result"] = delegate(conflist, interface, "ADD")
    note.write_text(json.dumps(attached))
    result: dict[str, Any] = default["result"]
    return result


def delete(note: Path) -> None:
    """Detach a pod from what it was attached to; nothing to do is no error."""
    try:
        attached = json.loads(note.read_text())
    except FileNotFoundError:
        return
    for interface, conflist in reversed(attached):
        delegate(conflist, interface, "DEL")
    note.unlink()


def main() -> int:
    """Do what CNI_COMMAND says; print the result, or the error as the specification has it."""
    command = os.environ.get("CNI_COMMAND")
    if command == "VERSION":
        print(json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0"]}))
        return 0
    config = json.load(sys.stdin)
    note = Path(config["state"], os.environ.get("CNI_CONTAINERID", "none"))
    note.parent.mkdir(parents=True, exist_ok=True)
    try:
        if command == "ADD":
            print(json.dumps(add(config, note)))
        elif command == "DEL":
            delete(note)
    except (Refused, OSError, KeyError, ValueError) as error:
        print(json.dumps({"cniVersion": config.get("cniVersion", "1.0.0"), "code": 100, "msg": f"{error}"}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
