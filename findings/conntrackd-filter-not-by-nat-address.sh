#!/bin/sh
# conntrackd 1.4.7: a filter by address never sees the address that a connection is translated to.
#
# conntrackd.conf(5) says that `Filter { Address Accept { … } }` is by the addresses of the traffic. What it compares are the
# source of the original direction and the source of the answers, the two real ends; the destination of the answers, which is
# the address that source NAT has given, is in no comparison. So "replicate what leaves with this address" cannot be said, as
# one would who gives addresses of a NAT gateway to different backups.
#
# Here: one connection from 127.0.0.5 is translated to 127.0.0.9. Accepting 127.0.0.9 keeps nothing, accepting 127.0.0.5
# keeps it. Needs root for a network namespace of its own, nft, and apt, by which Debian 12's package is unpacked in a folder
# that is gone afterwards. Exits 1 when this is no longer so, and 69 where the package cannot be had.
set -eu
place=$(mktemp -d /tmp/ctd-XXXX)
trap 'rm -rf "$place"' EXIT INT TERM
mkdir "$place/packages"
(
    cd "$place/packages"
    apt-get -qq download conntrackd=1:1.4.7-1+b2 libmnl0 libnetfilter-conntrack3 libnetfilter-cthelper0 libnetfilter-queue1 \
        libnfnetlink0 2>/dev/null
) || { echo "conntrackd 1:1.4.7-1+b2 cannot be had from apt's sources here" >&2; exit 69; }
for package in "$place"/packages/*.deb; do dpkg -x "$package" "$place/root"; done
PATH=$place/root/usr/sbin:$PATH
LD_LIBRARY_PATH=$(dirname "$(find "$place/root/usr/lib" -name 'libnfnetlink.so.0')")
export PATH LD_LIBRARY_PATH
cat >"$place/inside.sh" <<'INSIDE'
ip link set lo up
ip link add dedicated type veth peer name other
ip addr add 192.0.2.1/24 dev dedicated
ip link set dedicated up
ip link set other up
nft -f - <<N
table ip t {
    chain source { type nat hook postrouting priority srcnat; ip saddr 127.0.0.5 snat to 127.0.0.9; }
    chain track { type filter hook input priority 0; ct state new accept; }
}
N
for address in 127.0.0.9 127.0.0.5; do
    cat >"$1/conf" <<CONF
Sync {
    Mode NOTRACK {
    }
    UDP {
        IPv4_address 192.0.2.1
        IPv4_Destination_Address 192.0.2.2
        Port 3780
        Interface dedicated
    }
}
General {
    HashSize 1024
    HashLimit 4096
    LockFile $1/lock
    UNIX {
        Path $1/ctl
    }
    NetlinkBufferSize 2097152
    NetlinkBufferSizeMaxGrowth 8388608
    Filter From Userspace {
        Address Accept {
            IPv4_address $address
        }
    }
}
CONF
    conntrackd -C "$1/conf" >"$1/log" 2>&1 &
    sleep 1
    python3 - <<P
import socket, time
server = socket.create_server(("127.0.0.1", 5555))
client = socket.socket()
client.bind(("127.0.0.5", 0))
client.connect(("127.0.0.1", 5555))
assert server.accept()[0].getpeername()[0] == "127.0.0.9", "it is translated"
time.sleep(0.5)
P
    if conntrackd -C "$1/conf" -i | grep -q '127\.0\.0\.9'; then echo "$address: kept"; else echo "$address: nothing"; fi
    conntrackd -C "$1/conf" -k >/dev/null
    wait
done
INSIDE
unshare -n sh "$place/inside.sh" "$place" | tee "$place/seen"
printf '127.0.0.9: nothing\n127.0.0.5: kept\n' | cmp - "$place/seen"
