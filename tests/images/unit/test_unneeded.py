"""What images/trim takes away follows from dpkg's records, whatever a release calls its libraries."""

from __future__ import annotations

import pytest

from images.unneeded import parse, unneeded

#: As dpkg-query prints it: name, essential, what it depends on, what it provides.
SHOWN = "\n".join(
    "\t".join(row)
    for row in [
        ("coreutils", "yes", "libacl1 (>= 2.2.23), libssl3t64 (>= 3.0.0), ", ""),
        ("libacl1", "no", ", libc6 (>= 2.33)", ""),
        ("libc6", "no", ", libgcc-s1", "glibc-abi"),
        ("libgcc-s1", "no", ", gcc-14-base (= 14.2.0-19), libc6", ""),
        ("gcc-14-base", "no", ", ", ""),
        ("libssl3t64", "no", ", libc6, openssl-provider-legacy | openssl-none", "libssl3 (= 3.5.4-1)"),
        ("openssl-provider-legacy", "no", ", libssl3", ""),
        ("base-files", "yes", "awk, ", "base"),
        ("mawk", "no", "libc6, ", "awk"),
        ("perl-base", "yes", "libcrypt1, ", "perlapi-5.40"),
        ("libcrypt1", "no", ", libc6", ""),
        ("debconf", "no", ", perl-base:any", "debconf-2.0"),
        ("apt", "no", ", libapt-pkg7.0, sqv | gpgv", ""),
        ("libapt-pkg7.0", "no", ", libgcrypt20", ""),
        ("libgcrypt20", "no", ", libgpg-error0", ""),
        ("libgpg-error0", "no", ", libc6", ""),
        ("sqv", "no", ", libhogweed6t64", ""),
        ("libhogweed6t64", "no", ", libc6", ""),
        ("python3", "no", "python3-minimal (= 3.13), ", "python3-supported-min"),
        ("python3-minimal", "no", ", tzdata, libssl3t64", ""),
        ("tzdata", "no", ", debconf (>= 0.5) | debconf-2.0", "tzdata-trixie"),
        ("iptables", "no", ", libip4tc2, netbase | netbase-other", ""),
        ("libip4tc2", "no", ", libc6", ""),
        ("haproxy", "no", ", liblua5.4-0", ""),
        ("liblua5.4-0", "no", ", libc6", ""),
    ]
)
GOES = "apt debconf haproxy iptables libapt-pkg7.0 libcrypt1 libgcrypt20 libgpg-error0 libhogweed6t64 libip4tc2"
ALWAYS_GOES = ["liblua5.4-0", "perl-base", "sqv", "tzdata"]


def test_what_nothing_that_stays_depends_on_goes() -> None:
    """Libraries of apt and Perl go with them; what is essential stays, by whatever name it is asked for."""
    assert unneeded(parse(SHOWN), ["python3"]) == sorted([*GOES.split(), *ALWAYS_GOES])


def test_what_is_named_stays_with_all_that_it_needs() -> None:
    found = unneeded(parse(SHOWN), ["python3", "iptables", "haproxy"])
    assert found == sorted({*GOES.split(), *ALWAYS_GOES} - {"iptables", "libip4tc2", "haproxy", "liblua5.4-0"})


def test_what_never_stays_goes_though_it_is_named_by_something_that_stays() -> None:
    packages = parse(SHOWN)
    assert ("tzdata",) in packages["python3-minimal"].dependencies
    assert {"tzdata", "debconf", "perl-base"} <= set(unneeded(packages, ["python3"]))


def test_a_package_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="nftables"):
        unneeded(parse(SHOWN), ["nftables"])
