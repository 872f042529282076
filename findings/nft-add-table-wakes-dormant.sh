#!/bin/sh
# nftables 1.0.6 (Debian 12), Linux 6.18: `add table` on a table that exists and is dormant wakes it up.
#
# nft(8): "add" adds a table, and is no error when there is one already, which scripts use ("add table; delete table; table
# …" replaces one safely, whether it was there or not). One would not expect it to change anything. But a table's flags are
# part of what is added: without "flags dormant" the flag is taken off, and the hooks of the table's chains are on from
# then on.
#
# Here: a dormant table with a chain on output that drops; ping to the loopback works. After `nft add table ip t`, and
# nothing else, it does not, and the listing has no flag. With `add table ip t { flags dormant; }` it stays dormant.
# Needs root for a network namespace of its own. Exits 1 when this is no longer so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
cd "$work"
apt-get download nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
cat >inside.sh <<'INSIDE'
set -eu
export LD_LIBRARY_PATH=$(dirname "$(find root -name 'libnftables.so.1')")
nft() { root/usr/sbin/nft "$@"; }
reaches() { ping -c 1 -W 1 127.0.0.1 >/dev/null 2>&1 && echo yes || echo no; }
table() { nft -s list table ip t | grep -c dormant || true; }
ip link set lo up
nft --version
nft -f - <<'RULES'
table ip t {
    flags dormant;
    chain out { type filter hook output priority 0; policy drop; }
}
RULES
nft add table ip t '{ flags dormant; }'
echo "added again with the flag:    dormant $(table), ping $(reaches)"
nft add table ip t
echo "added again without the flag: dormant $(table), ping $(reaches)"
INSIDE
unshare -n sh inside.sh | tee seen
grep -q 'with the flag:    dormant 1, ping yes' seen
grep -q 'without the flag: dormant 0, ping no' seen
