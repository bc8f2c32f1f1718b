"""Which peers, paths and SQL statements a pattern stands for."""

from __future__ import annotations

import fnmatch
import ipaddress
import socket
import string

from pathlib import Path
from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience import ConfigurationError
from pytest_resilience.chaos.operation import OPEN
from pytest_resilience.chaos.operation import Operation
from pytest_resilience.chaos.parsing.targets import PathPattern
from pytest_resilience.chaos.parsing.targets import StatementPattern
from pytest_resilience.chaos.parsing.targets import Target
from pytest_resilience.chaos.parsing.targets import control_word
from pytest_resilience.chaos.parsing.targets import parse_paths
from pytest_resilience.chaos.parsing.targets import parse_statements
from pytest_resilience.chaos.parsing.targets import parse_targets
from pytest_resilience.chaos.parsing.targets import plain_text


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


@pytest.mark.parametrize(
    ("glob", "path", "meant"),
    [
        ("/data/config.json", "/data/config.json", True),
        ("/data/config.json", "/data/config.jsonl", False),
        ("/data", "/data", True),
        ("/data", "/data/a/b.txt", True),
        ("/data/", "/data/a/b.txt", True),
        ("/data", "/database", False),
        ("/data/*", "/data/a", True),
        ("/data/*", "/data/a/b", False),
        ("/data/*", "/data", False),
        ("/data/**", "/data/a", True),
        ("/data/**", "/data/a/b/c", True),
        ("/data/**", "/data", False),
        ("/data/**/*.json", "/data/a.json", True),
        ("/data/**/*.json", "/data/a/b/c.json", True),
        ("/data/**/*.json", "/data/a/b/c.txt", False),
        ("/data/**/cache", "/data/a/cache/x/y", True),
        ("/data/**/cache", "/data/cache", True),
        ("/data/**/cache", "/data/cache/x", True),
        ("/**/**/cache", "/cache", True),
        ("/data/**/b/**/d", "/data/a/b/c/d", True),
        ("/data/**/b/**/d", "/data/a/c/d", False),
        ("/data/?.txt", "/data/a.txt", True),
        ("/data/?.txt", "/data//.txt", False),
        ("/data/[ab].txt", "/data/c.txt", False),
        ("/data/a[0].txt", "/data/a0.txt", True),
        ("/data/../etc/*", "/etc/a", True),
        ("/data/*", "/data/.hidden", True),
        ("/DATA/*", "/data/a", False),
        ("/**", "/anything/at/all", True),
        ("/", "/anything/at/all", True),
    ],
)
def test_globs_of_paths(glob: str, path: str, meant: bool) -> None:
    assert PathPattern(glob).matches(path) is meant


@given(glob=st.text("ab*?[]!-^.\\", min_size=1, max_size=8), name=st.text("ab-^!.\\]", min_size=1))
def test_within_one_name_signs_mean_what_they_mean_everywhere(glob: str, name: str) -> None:
    if glob in {".", "..", "**"} or name in {".", ".."}:
        return
    # One with a plain name is about what is below, too, which a single name has nothing of.
    assert PathPattern(f"/base/{glob}").matches(f"/base/{name}") is fnmatch.fnmatchcase(name, glob)


@given(st.lists(st.sampled_from(["a", "b", "*", "?"]), min_size=1, max_size=4), st.data())
def test_any_number_of_folders_is_also_none(parts: list[str], data: st.DataObject) -> None:
    there = "/".join(["", *("a" if part in "*?" else part for part in parts)])
    assert PathPattern("/".join(["", *parts])).matches(there)
    at = data.draw(st.integers(0, len(parts) - 1))
    assert PathPattern("/".join(["", *parts[:at], "**", *parts[at:]])).matches(there)


def test_relative_globs_begin_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = PathPattern("config/*.json")
    assert not pattern.matches(f"{tmp_path}/config/a.json")
    monkeypatch.chdir(tmp_path)
    assert pattern.matches(f"{tmp_path}/config/a.json")
    assert PathPattern("**/a.json").matches(f"{tmp_path}/a.json")
    assert PathPattern("./**").matches(f"{tmp_path}/config/a.json")
    assert not PathPattern("./**").matches("/elsewhere/config/a.json")


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert PathPattern("~/.config").matches("/home/somebody/.config/app.toml")


def test_a_glob_that_begins_at_a_link_is_about_both_places(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    (tmp_path / "current").symlink_to("releases")
    pattern = PathPattern(f"{tmp_path}/current/*.json")
    assert pattern.matches(f"{tmp_path}/current/a.json")
    assert pattern.matches(f"{tmp_path}/releases/a.json")
    assert not PathPattern(f"{tmp_path}/releases/*.json").matches(f"{tmp_path}/current/a.json")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/data/** | /etc/app.toml", "path /data/** | /etc/app.toml"),
        (Path("/data/config.json"), "path /data/config.json"),
        (["/data", Path("/etc")], "path /data | /etc"),
    ],
)
def test_several_globs(value: Any, shown: str) -> None:
    paths = parse_paths("path", value)
    assert str(paths) == shown
    assert parse_paths("path", paths) is paths
    named = Operation(kind=OPEN, target="/data/config.json", names=("/data/config.json",))
    assert paths.accepts(named)
    assert not paths.accepts(Operation(kind=OPEN, target="/x", names=("/x",)))
    # A file with two names is meant by either.
    assert paths.accepts(Operation(kind=OPEN, target="/x", names=("/x", "/data/config.json")))


@pytest.mark.parametrize("value", ["", " ", "a||b", "a\0b", 3, b"a", [], [3], None])
def test_what_is_no_glob(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="path="):
        parse_paths("path", value)


def test_a_path_of_windows_would_match_nothing() -> None:
    with pytest.raises(ConfigurationError, match="cannot match anything: a path of Windows"):
        parse_paths("path", "C:\\data\\*")


@pytest.mark.parametrize(
    ("glob", "path", "meant"),
    [
        ("**/x.csv", "/tmp/a/b/x.csv", True),
        ("**/x.csv", "/x.csv", True),
        ("**/x.csv", "/tmp/a/y.csv", False),
        ("**/data/*.csv", "/tmp/a/data/x.csv", True),
        ("**/data/*.csv", "/tmp/a/data/b/x.csv", False),
        ("**/data", "/tmp/a/data/b/x.csv", True),
        ("**", "/tmp/a", True),
        ("./**/x.csv", "/tmp/a/x.csv", False),
        ("data/**/x.csv", "/tmp/data/x.csv", False),
    ],
)
def test_one_that_begins_with_any_folders_begins_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glob: str, path: str, meant: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    assert PathPattern(glob).matches(path) == meant


def test_where_the_current_folder_is_gone_nothing_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert not PathPattern("x.csv").matches("/tmp/x.csv")
    assert PathPattern("**/x.csv").matches("/tmp/x.csv")


@pytest.mark.parametrize(
    ("pattern", "statement"),
    [
        ("SELECT … FROM orders*", "select id, total\n  from Orders where id = ?"),
        ("SELECT * FROM orders", "SELECT id FROM orders"),
        ("UPDATE accounts", "UPDATE accounts SET money = 0"),
        ("update accounts", '  UPDATE /* all */ "accounts" -- now\n SET money = 0;'),
        ("INSERT INTO `items`*", "INSERT INTO items VALUES (1)"),
        ("DELETE FROM t?", "delete from t1"),
    ],
)
def test_statements_that_a_pattern_matches(pattern: str, statement: str) -> None:
    assert StatementPattern(pattern).matches(statement)


@pytest.mark.parametrize(
    ("pattern", "statement"),
    [
        ("UPDATE accounts", "UPDATE accounts_old SET money = 0"),
        ("SELECT * FROM orders", "SELECT id FROM orders WHERE id = 1"),
        ("SELECT*", "INSERT INTO t SELECT 1"),
        ("DELETE FROM t?", "delete from t"),
        ("SELECT [a-z]*", "SELECT x"),
    ],
)
def test_statements_that_a_pattern_does_not_match(pattern: str, statement: str) -> None:
    assert not StatementPattern(pattern).matches(statement)


def test_several_patterns_of_statements() -> None:
    found = parse_statements("match", "SELECT* | UPDATE orders")
    assert [str(each) for each in found] == ["SELECT*", "UPDATE orders"]


@pytest.mark.parametrize("value", ["", "  ", 3, None, "-- nothing", "SELECT*|"])
def test_what_is_no_pattern_of_statements(value: object) -> None:
    with pytest.raises(ConfigurationError, match="match="):
        parse_statements("match", value)


@given(st.text())
def test_any_text_matches_itself_unless_it_is_nothing(text: str) -> None:
    plain = plain_text(text)
    if plain and not set("*?…") & set(plain):
        assert StatementPattern(plain).matches(text)


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("BEGIN IMMEDIATE", "begin"),
        ("start transaction", "begin"),
        ("COMMIT;", "commit"),
        ("/* x */ END", "commit"),
        ("ROLLBACK", "rollback"),
        ("rollback to savepoint a", "savepoint"),
        ("SAVEPOINT a", "savepoint"),
        ("RELEASE a", "savepoint"),
        ("SELECT 1", ""),
        ("endless", ""),
    ],
)
def test_statements_that_control_transactions(statement: str, word: str) -> None:
    assert control_word(statement) == word
