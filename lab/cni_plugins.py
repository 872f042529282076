"""Real CNI plugins, called as libcni calls them. See https://www.cni.dev/docs/spec/ (0.4.0: all releases speak it)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.host import Host
from lab.process import CommandFailed

#: Where Debian's containernetworking-plugins and most others have them.
DIRECTORIES = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
VERSION = "0.4.0"

Config = Mapping[str, Any]


class PluginFailed(RuntimeError):
    """A plugin ended with an error; the text is the plugin's own."""


@dataclass
class Attachment:
    """An interface of a pod, made by a chain of plugins on a node; ``result`` is what the last one returned."""

    node: Host
    pod: Host
    interface: str
    chain: Sequence[Config]
    runtime: Mapping[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    def add(self) -> None:
        """Have every plugin of the chain add its part, in order. Raises PluginFailed."""
        for config in self.chain:
            self.result = json.loads(self._call("ADD", config) or "{}")

    def check(self) -> None:
        """Have every plugin look whether its part is there still. Raises PluginFailed."""
        for config in self.chain:
            self._call("CHECK", config)

    def delete(self) -> None:
        """Have every plugin take its part away, in reverse order. Raises PluginFailed."""
        for config in reversed(self.chain):
            self._call("DEL", config)

    def _call(self, command: str, config: Config) -> str:
        text = {"cniVersion": VERSION, "name": f"net-{self.interface}", **config}
        capabilities = config.get("capabilities", {})
        if wanted := {name: self.runtime[name] for name in capabilities if name in self.runtime}:
            text["runtimeConfig"] = wanted
        if self.result:
            text["prevResult"] = self.result
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.pod.netns,
            "CNI_NETNS": self.pod.netns_path,
            "CNI_IFNAME": self.interface,
            "CNI_PATH": ":".join(map(str, DIRECTORIES)),
        }
        words = ["env", *(f"{name}={value}" for name, value in env.items()), str(plugin(config["type"]))]
        done = self.node.run(words, input=json.dumps(text), check=False, timeout=30)
        if done.returncode != 0:
            raise PluginFailed(f"{config['type']} {command} of {self.interface}: {done.stdout}{done.stderr}")
        return done.stdout


def plugin(name: str) -> Path:
    """Return the program of a plugin. Raises FileNotFoundError."""
    for directory in DIRECTORIES:
        if (directory / name).exists():
            return directory / name
    raise FileNotFoundError(f"no CNI plugin {name} in {' or '.join(map(str, DIRECTORIES))}")


@contextmanager
def attached(node: Host, pod: Host, interface: str, *chain: Config, **runtime: Any) -> Iterator[Attachment]:
    """Give a pod an interface, and take it away in the end. ``runtime`` is what a runtime adds: portMappings."""
    attachment = Attachment(node, pod, interface, chain, runtime)
    try:
        attachment.add()
        yield attachment
    except BaseException:
        with_error = True
        raise
    else:
        with_error = False
    finally:
        try:
            attachment.delete()
        except (PluginFailed, CommandFailed):
            # The first error says more.
            if not with_error:
                raise
