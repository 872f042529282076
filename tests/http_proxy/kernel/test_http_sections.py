"""Policy by client: two clients of one proxy, each with the lines of its section."""

from __future__ import annotations

import pytest

from lab import Lab
from tests.http_proxy.kernel.http_pod import Client, Proxy

# What Squid decides and does not depend on how pods are connected.
pytestmark = [pytest.mark.root, pytest.mark.parametrize("shape", ["bridge"])]

GOOD, OTHER = "203.0.113.25", "203.0.113.26"


def test_two_clients(lab: Lab, proxy: Proxy, client: Client) -> None:
    other = Client(lab, proxy, name="other")
    third = Client(lab, proxy, name="third")
    servers = {address: lab.http(address, port=80) for address in (GOOD, OTHER)}
    lab.dns.set("all.example", A=[GOOD])
    lab.dns.set("one.example", A=[GOOD])
    lab.dns.set("mixed.example", A=[GOOD, OTHER])
    names = ["all.example", "one.example", "mixed.example"]
    assert all(
        proxy.pod.run(["curl", "-sS", "-m", "5", "-o", "/dev/null", f"http://{name}/"]).returncode == 0
        for name in names
    ), "the control"
    first, second = client.pod.addresses[4], other.pod.addresses[4]
    proxy.write_policy(
        f"[network first = {first}]\n"
        "all.example\n"
        "[from first]\n"
        "*.example\n"
        f"[from {second}, {client.pod.addresses[6]}/128]\n"
        f"{GOOD}\n"
        f"!{OTHER}\n"
    )
    proxy.start()
    before = len(servers[OTHER].requests)
    asked = [[one.status(f"http://{name}/") for name in names] for one in (client, other, third)]
    assert asked == [[200, 200, 200], [200, 200, 403], [200, 403, 403]]
    assert third.tunnel("one.example:80")[0] == 403
    assert {query.name.rstrip(".") for query in lab.dns.queries} >= {"all.example"}
    log = proxy.wait_for_log(10)
    assert [entry["client"] for entry in log[:9]] == [
        str(one.pod.addresses[4]) for one in (client, other, third) for _ in names
    ]
    assert [entry["line"] for entry in log] == [2, 4, 4, 2, 6, 7, 2, None, None, None]
    # Both addresses of the name are allowed to the first client alone.
    assert {entry.get("server") for entry in log if entry["host"] == "mixed.example"} <= {GOOD, OTHER, None}
    assert len(servers[OTHER].requests) - before <= 1
    # A reload moves the section to the other client.
    proxy.write_policy(f"all.example\n[from {second}]\n*.example\n")
    proxy.wait_for("generation 2 is in force")
    assert [one.status("http://one.example/") for one in (client, other)] == [403, 200]


def test_the_client_is_who_connects(lab: Lab, proxy: Proxy, client: Client) -> None:
    """Nothing in a request makes its client another one."""
    lab.http(GOOD, port=80)
    lab.dns.set("one.example", A=[GOOD])
    other = Client(lab, proxy, name="other")
    proxy.start(f"[from {client.pod.addresses[4]}]\none.example")
    assert client.status("http://one.example/") == 200
    address = client.pod.addresses[4]
    for header in (f"X-Forwarded-For: {address}", f"Forwarded: for={address}", f"X-Client-IP: {address}"):
        assert other.get("http://one.example/", f"{header}\r\n")[0] == 403
    # Names that are no business of a client's are not asked for either.
    asked = len([query for query in lab.dns.queries if "secret" in query.name])
    assert other.status("http://secret.one.example/") == 403
    assert len([query for query in lab.dns.queries if "secret" in query.name]) == asked == 0
