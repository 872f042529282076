#!/bin/bash
# An egress router as a shell script makes it: ip, arping, and one `nft -f` with one rule for each destination. The steps
# and their order are those of OpenShift's origin-egress-router; the text is not. IPv4 only.
# EGRESS_SOURCE, EGRESS_GATEWAY, EGRESS_DESTINATION_FILE with lines of PORT PROTOCOL ADDRESS [PORT] or ADDRESS.
# BASELINE_ANNOUNCE=no leaves out arping, which waits a second for an answer that does not come.
set -euo pipefail

address='^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$'
number='^[0-9]+$'

refuse() { echo "line $line: $*" >&2; exit 1; }

# One rule a line, checked one by one.
rules() {
    local line=0 port protocol destination to rest fallback=
    echo "table ip shell_router"
    echo "delete table ip shell_router"
    echo "table ip shell_router {"
    echo "chain prerouting { type nat hook prerouting priority dstnat;"
    while read -r port protocol destination to rest; do
        line=$((line + 1))
        if [ -z "$port" ] || [ "${port:0:1}" = "#" ]; then continue; fi
        [ -z "$fallback" ] || refuse "behind the fallback"
        if [ -z "$protocol" ]; then
            [[ $port =~ $address ]] || refuse "no address: $port"
            fallback=$port
            continue
        fi
        [[ $port =~ $number ]] && [ "$port" -ge 1 ] && [ "$port" -le 65535 ] || refuse "no port: $port"
        [ "$protocol" = tcp ] || [ "$protocol" = udp ] || refuse "no protocol: $protocol"
        [[ $destination =~ $address ]] || refuse "no address: $destination"
        [ -z "$rest" ] || refuse "too many words"
        if [ -z "$to" ]; then
            echo "iifname eth0 $protocol dport $port dnat to $destination"
        else
            [[ $to =~ $number ]] && [ "$to" -ge 1 ] && [ "$to" -le 65535 ] || refuse "no port: $to"
            echo "iifname eth0 $protocol dport $port dnat to $destination:$to"
        fi
    done <"$EGRESS_DESTINATION_FILE"
    [ -z "$fallback" ] || echo "iifname eth0 dnat to $fallback"
    echo "}"
    echo "chain postrouting { type nat hook postrouting priority srcnat; oifname macvlan0 snat to $EGRESS_SOURCE; }"
    echo "}"
}

ip link show macvlan0 >/dev/null
ip address add "$EGRESS_SOURCE/32" dev macvlan0
ip link set up dev macvlan0
ip route add "$EGRESS_GATEWAY/32" dev macvlan0
ip route del default
ip route add default via "$EGRESS_GATEWAY" dev macvlan0
echo 1 >/proc/sys/net/ipv4/ip_forward
# The gateway must not send to the MAC of the pod that had the address before.
[ "${BASELINE_ANNOUNCE:-yes}" = no ] || arping -q -A -c 1 -I macvlan0 "$EGRESS_SOURCE" || true
file=$(mktemp)
trap 'rm -f "$file"' EXIT
rules >"$file"
nft -f "$file"
