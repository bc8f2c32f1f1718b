from __future__ import annotations

import ipaddress
import socket
import string

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.parsing.targets import Target
from pytest_resilience.chaos.parsing.targets import parse_targets


LABELS = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PORTS = st.integers(1, 65535)


@given(host=HOSTS, port=PORTS)
def test_a_name_matches_itself_whatever_its_case(host: str, port: int) -> None:
    for pattern in (host, host.upper(), f"{host}:{port}", f"{host}:*", "*", f"*:{port}"):
        assert Target(pattern).matches(f"{host}:{port}")
    assert not Target(f"{host}x").matches(f"{host}:{port}")
    assert not Target(f"{host}:{port % 65535 + 1}").matches(f"{host}:{port}")


@given(address=st.ip_addresses(v=6), port=PORTS)
def test_ipv6_stands_in_brackets_spelled_as_one_likes(
    address: ipaddress.IPv6Address, port: int
) -> None:
    shown = socket.inet_ntop(socket.AF_INET6, address.packed)
    for spelling in (shown, shown.upper(), address.exploded):
        for pattern in (f"[{spelling}]", f"[{spelling}]:{port}", f"[{spelling}]:*", "*"):
            assert Target(pattern).matches(f"[{shown}]:{port}")
    assert not Target(f"[{shown}]:{port % 65535 + 1}").matches(f"[{shown}]:{port}")


@given(text=st.text(string.ascii_letters + string.punctuation + " é\t"))
def test_any_text_is_a_target_or_refused_in_words(text: str) -> None:
    refused = ""
    try:
        Target(text).matches("api.example.com:443")
    except ConfigurationError as error:
        refused = str(error)
    assert not refused or f"target {text!r} cannot match anything: " in refused


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*.internal:443", "db.internal:443", True),
        ("*.internal:443", "db.internal:80", False),
        ("*.internal:443", "internal:443", False),
        ("api-?.example.com", "api-1.example.com:80", True),
        ("127.0.0.1:*", "127.0.0.1:8080", True),
        ("127.0.0.1:80??", "127.0.0.1:8080", True),
        ("[ab].example.com", "a.example.com:80", True),
        ("[ab].example.com", "c.example.com:80", False),
        ("example.com", "example.com.:80", True),
        ("example.com.:80", "example.com:80", True),
        ("example.com.", "example.com.:80", True),
        ("a:[1-3]", "a:2", True),
        ("a:[!1-3]", "a:2", False),
        ("[fe80::*]", "[fe80::1%eth0]:80", True),
        ("example.com:443", "example.com:", True),
        ("from 10.0.0.1", "from 10.0.0.1:20", True),
        (" From  10.0.0.*:20-30", "from 10.0.0.1:20", True),
        ("from [fe80::*]", "from [fe80::1]:20", True),
        ("from 10.0.0.1:21", "from 10.0.0.1:20", False),
        ("*", "from 10.0.0.1:20", False),
        ("from *", "10.0.0.1:20", False),
        ("from", "from:20", True),
    ],
)
def test_globs(pattern: str, name: str, matches: bool) -> None:
    assert Target(pattern).matches(name) is matches


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://x:80/y", "cannot match anything: a URL; give host and port only, as 'x:80'"),
        ("x/y", "a URL"),
        (":80", "no host; for every host write '*:80'"),
        ("", "no host"),
        ("x:http", "port 'http' is not a number; e.g. 'api.example.com:443'"),
        ("x:80-", "port '80-' is not a number"),
        ("x:90-80", "no port is in 90-80; the lower comes first, as in '80-90'"),
        ("x:0-90", "there is no port 0"),
        ("x:80-65536", "there is no port 65536; give one of 1 to 65535"),
        ("x:9999999999", "there is no port 9999999999"),
        ("x:80#0", "there is no connection '0'; they are numbered from 1, as in"),
        ("x:80#", "there is no connection ''"),
        ("x:80#first", "there is no connection 'first'"),
        ("x:80#3-2", "there is no connection '3-2'"),
        ("x#1#2", "there is no connection '1#2'"),
        ("!*", "it excludes every connection; leave it out"),
        ("!*:*", "it excludes every connection"),
        ("!", "no host"),
        ("!!a", "'!a' is no host name"),
        ("#2", "no host; for every host write '*:*'"),
        ("x:[80", "is not a number"),
        (".", "no host"),
        ("x:0", "there is no port 0; give one of 1 to 65535"),
        ("x:65536", "there is no port 65536"),
        ("::1", "bare IPv6 needs brackets"),
        ("two words", "'two words' is no host name or address"),
    ],
)
def test_what_cannot_match_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Target(text)
    assert why in str(caught.value)


@given(
    excludes=st.booleans(),
    host=HOSTS,
    ports=st.none() | st.lists(PORTS, min_size=1, max_size=2).map(sorted),
    connections=st.none() | st.lists(st.integers(1, 10**6), min_size=1, max_size=2).map(sorted),
    space=st.sampled_from(["", " "]),
)
def test_what_is_written_is_what_is_read(  # all by name
    excludes: bool, host: str, ports: list[int] | None, connections: list[int] | None, space: str
) -> None:
    text = f"{space}{'!' * excludes}{host}"
    text += f":{'-'.join(map(str, ports))}" if ports else ""
    text += f"#{'-'.join(map(str, connections))}" if connections else ""
    target = Target(text + space)
    assert parse_targets(str(target)) == (Target(text.strip()),)
    assert target.excludes is excludes
    assert target.connections == (connections and (connections[0], connections[-1]))
    low, high = (ports[0], ports[-1]) if ports else (1, 65535)
    for port in {1, low, high, 65535, max(1, low - 1), min(65535, high + 1)}:
        assert target.matches(f"{host}:{port}") is (low <= port <= high)
    assert target.matches(f"{host}:")
    assert not target.matches(f"{host}x:{low}")


@pytest.mark.parametrize("spelling", ["[::1]", "[::1]:80-90", "[::1]#2", "[::1]:*#2-3", "![::1]"])
def test_ipv6_has_all_of_it_too(spelling: str) -> None:
    assert Target(spelling).matches("[::1]:80")
    assert not Target(spelling).matches("[::2]:80")


def test_a_port_that_is_no_number_is_in_no_range() -> None:
    assert not Target("a:1-65535").matches("a:http")
    assert not Target("a:80").matches("a:²")


def test_what_excludes_all_that_it_includes_is_refused() -> None:
    for targets in ("a|!a", ["!b:80", "a", "b:80", "! a"]):
        with pytest.raises(ConfigurationError, match="it excludes all that it includes"):
            parse_targets(targets)
    assert len(parse_targets("a|b|!a")) == 3


def test_several_in_one_text_or_a_list() -> None:
    assert parse_targets("a|b:80") == parse_targets(["a", "b:80"]) == (Target("a"), Target("b:80"))
    assert parse_targets(Target("a")) == (Target("a"),)
    assert str(Target("a:80")) == "a:80"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (3, "target 3 is not a text"),
        ([3], "target 3 is not a text"),
        ([], "target is empty; leave it out for every target"),
    ],
)
def test_what_is_no_target_is_refused(value: object, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        parse_targets(value)
