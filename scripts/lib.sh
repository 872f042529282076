# Shared by the scripts here: what they need on a fresh Debian or Ubuntu machine, installed once and said so.
# Sourced with the checkout as the working directory.

VENV=${VENV:-.venv}
# What the tests with packets need (promtool reads their metrics), and what those of images and pages need beside it.
TRAFFIC_PACKAGES="iproute2 nftables iptables tcpdump conntrack procps bind9-dnsutils socat iputils-ping iputils-arping curl iperf3 keepalived libcap2-bin util-linux squid libkeepalive0 haproxy gcc libc6-dev prometheus"
PACKAGES="$TRAFFIC_PACKAGES buildah podman crun debootstrap chromium"
CLUSTER_PACKAGES="busybox-static containernetworking-plugins libseccomp-dev openssl ipset ethtool"

say() { printf '>>> %s\n' "$*"; }
die() { printf '%s: %s\n' "$0" "$*" >&2; exit 69; }

usage_error() { printf '%s: %s\n' "$0" "$*" >&2; exit 2; }

# For -h and --help: prints what stands above `set` in a script, its first argument, and ends it.
answer_help() {
    case "${2:-}" in
    -h | --help)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$1"
        exit 0
        ;;
    esac
}

is_root() { [ "$(id -u)" = 0 ]; }

installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

# The first Python from 3.11 on.
find_python() {
    for python in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$python" ] || continue
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    die "Python 3.11 or newer is needed (PYTHON names one)"
}

# System packages, with apt; daemons that come with them are not started.
ensure_packages() {
    command -v apt-get >/dev/null || die "this script installs with apt-get; elsewhere install: $PACKAGES"
    missing=""
    for package in $PACKAGES "$@"; do
        installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing system packages:$missing"
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT INT TERM
    fi
    log=$(mktemp)
    # shellcheck disable=SC2086  # one word a package
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "apt-get failed"
    fi
    rm -f "$log"
}

# A virtual environment with pinned versions, made anew when the pins change.
ensure_venv() {
    stamp="$VENV/.requirements"
    if [ -x "$VENV/bin/python" ] && cmp -s requirements/dev.txt "$stamp"; then
        return 0
    fi
    python=$(find_python)
    if is_root && command -v apt-get >/dev/null; then
        case "$("$python" -c 'import sys; print(sys.base_prefix)')" in
        /usr)
            # Debian keeps venv and the headers that python-iptables is built with apart.
            version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
            ensure_packages "python$version-venv" "python$version-dev"
            ;;
        esac
    fi
    say "making the virtual environment $VENV ($("$python" --version))"
    rm -rf "$VENV"
    "$python" -m venv "$VENV" || die "the virtual environment could not be made (Debian: apt-get install python3-venv)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -e .
    cp requirements/dev.txt "$stamp"
}

# Lint, format, types, import contracts.
run_checks() {
    say "ruff"
    "$VENV/bin/ruff" check .
    "$VENV/bin/ruff" format --check .
    say "mypy"
    "$VENV/bin/mypy"
    say "import contracts"
    "$VENV/bin/lint-imports"
}
