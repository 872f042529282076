#!/bin/sh
# Linux 6.18: an IPv6 route stays when the address that it names as its source goes; an IPv4 route goes with it.
#
# An address with a lifetime (ip-address(8), valid_lft) is taken away by the kernel when nobody renews it, so one would like
# it to take the way out with it: "default via … src ADDRESS". IPv4's routes go with their source, in all tables. IPv6's only
# lose the words "src ADDRESS", and packets that are forwarded go on by them. They need a lifetime of their own (`expires`), and
# one that has expired is listed as "expires -2sec" for half a minute more, though no look-up uses it.
#
# Here: one address of each family with a lifetime of a second, and routes from it in table 100, one of IPv6's with
# `expires 1`; after three seconds the addresses and IPv4's route are gone, IPv6's routes are not.
# Needs root for a network namespace of its own. Exits 1 when this is no longer so.
set -eu
seen=$(mktemp)
trap 'rm -f "$seen" "$seen.sh"' EXIT INT TERM
cat >"$seen.sh" <<'INSIDE'
set -eu
ip link add d0 type veth peer name d1
ip link set d1 up
ip link set d0 up
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
ip address add 192.0.2.46/32 dev d0 valid_lft 1 preferred_lft 1
ip address add 2001:db8::46/128 dev d0 nodad valid_lft 1 preferred_lft 1
ip route add 203.0.113.0/24 dev d0 src 192.0.2.46 table 100
ip -6 route add 2001:db8:1::/64 dev d0 src 2001:db8::46 table 100
ip -6 route add 2001:db8:2::/64 dev d0 src 2001:db8::46 table 100 expires 1
ip -6 rule add iif d1 lookup 100
sleep 3
count() { grep -c "$1" || true; }
used() { ip -6 route get "$1" from 2001:db8:9::9 iif d1 2>/dev/null | count 'dev d0'; }
echo "addresses left:       $(ip address show dev d0 | count '46/')"
echo "IPv4 routes left:     $(ip route show table 100 | count dev)"
echo "IPv6 routes left:     $(ip -6 route show table 100 | count dev), with their source $(ip -6 route show table 100 | count src)"
echo "IPv6 look-ups use it: $(used 2001:db8:1::1), with expires $(used 2001:db8:2::1)"
INSIDE
unshare -n sh "$seen.sh" | tee "$seen"
grep -q 'addresses left:       0' "$seen"
grep -q 'IPv4 routes left:     0' "$seen"
grep -q 'IPv6 routes left:     2, with their source 0' "$seen"
grep -q 'IPv6 look-ups use it: 1, with expires 0' "$seen"
