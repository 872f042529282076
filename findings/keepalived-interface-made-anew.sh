#!/bin/sh
# keepalived 2.2.7: a VRRP instance whose interface was deleted and made anew enters BACKUP, and never becomes MASTER again.
#
# keepalived.conf(5) says that `dynamic_interfaces` lets keepalived work with interfaces that are deleted and restored. It
# sees the new one come up ("Entering BACKUP STATE"), but no time without adverts makes it MASTER, with that word or
# without; so where every router's interface was made anew nobody has the address. When it is told to end then, the process
# that sends adverts sometimes does not ("thread_cancel called for THREAD_TERMINATE_START"). Starting it again helps.
#
# Here: one router alone is MASTER within a second; its interface is deleted and made anew; five seconds later it is BACKUP.
# Needs root for a network namespace of its own, and apt, by which Debian 12's package is unpacked in a folder that is gone
# afterwards. Exits 1 when this is no longer so, and 69 where the package cannot be had.
set -eu
place=$(mktemp -d /tmp/vrrp-XXXX)
trap 'rm -rf "$place"' EXIT INT TERM
mkdir "$place/packages"
(
    cd "$place/packages"
    apt-get -qq download keepalived=1:2.2.7-1+b2 libglib2.0-0 libmnl0 libnftnl11 libnl-3-200 libnl-genl-3-200 libnsl2 libpci3 \
        libpcre2-8-0 libperl5.36 libsensors5 libsnmp40 libssl3 libtirpc3 libwrap0 2>/dev/null
) || { echo "keepalived 1:2.2.7-1+b2 cannot be had from apt's sources here" >&2; exit 69; }
for package in "$place"/packages/*.deb; do dpkg -x "$package" "$place/root"; done
PATH=$place/root/usr/sbin:$PATH
LD_LIBRARY_PATH=$(find "$place/root" -name '*.so.*' -printf '%h\n' | sort -u | paste -sd :)
export PATH LD_LIBRARY_PATH
cat >"$place/conf" <<CONF
global_defs {
    vrrp_version 3
    vrrp_notify_fifo $place/roles
    script_user root
    dynamic_interfaces
}
vrrp_instance one {
    version 3
    state BACKUP
    interface v0
    virtual_router_id 46
    priority 200
    advert_int 0.1
    mcast_src_ip 169.254.7.1
    virtual_ipaddress {
        127.1.2.3/32 dev lo scope host no_track
    }
}
CONF
cat >"$place/inside.sh" <<'INSIDE'
make() {
    ip link add v0 type veth peer name v1
    ip link set v1 up
    ip link set v0 up
}
mkfifo "$1/roles"
exec 3<>"$1/roles"
ip link set lo up
make
setsid keepalived --dont-fork --dont-respawn --vrrp --log-console --no-syslog \
    --use-file="$1/conf" --pid="$1/pid" --vrrp_pid="$1/vrrp.pid" >"$1/log" 2>&1 3>&- &
sleep 2
ip link del v0
sleep 1
make
sleep 5
timeout 0.2 cat <&3 | sed -n 's/^INSTANCE "one" \([A-Z]*\) .*/\1/p' | paste -sd ' '
kill -s KILL -- "-$!"
INSIDE
unshare -n sh "$place/inside.sh" "$place" | tee "$place/seen"
grep -qx 'BACKUP MASTER FAULT BACKUP' "$place/seen"
