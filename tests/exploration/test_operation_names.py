"""What operations are done to has one name in every run."""

from __future__ import annotations

import datetime
import os
import threading
import time

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.chaos.operation import READ
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.clock import MACHINE_CLOCK
from pytest_resilience.exploration.operation_names import Seen
from pytest_resilience.exploration.operation_names import TargetNames
from pytest_resilience.exploration.operation_names import patterns_in
from pytest_resilience.exploration.operation_names import renamed
from pytest_resilience.exploration.operation_names import varying
from pytest_resilience.exploration.schedule import Point
from pytest_resilience.exploration.schedule import Site
from pytest_resilience.exploration.schedule import parse_schedule


def files(*targets: str, function: str = "shop.pay") -> list[Site]:
    return [Site(WRITE, each, function) for each in targets]


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("payments:443", "payments:443"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("127.0.0.1:43817", "localhost:port1"),
        ("localhost:43817", "localhost:port1"),
        ("::1:50000", "localhost:port1"),
        ("/base/test_pay0/shop.db", "tmp_path/shop.db"),
        ("/base/data1/a/b.txt", "tmp_path/a/b.txt"),
        ("/home/me/shop/data/a.json", "data/a.json"),
        ("/base/test_pay0/tmpab12_xyz.json", "tmp_path/tmp*.json"),
        ("/base/test_pay0/.tmp_b12_xyz0", "tmp_path/.tmp_b12_xyz0"),
        ("/etc/hosts", "/etc/hosts"),
        (":memory:", ":memory:"),
    ],
)
def test_targets_are_named_alike_whatever_a_run_is_given(target: str, name: str) -> None:
    names = TargetNames(temporary="/base", project="/home/me/shop")
    assert names.of(WRITE, target) == name


def test_ports_of_the_system_are_numbered_as_they_are_met() -> None:
    names = TargetNames()
    found = [names.of(WRITE, f"127.0.0.1:{port}") for port in (50001, 40000, 50001)]
    assert found == ["localhost:port1", "localhost:port2", "localhost:port1"]


@pytest.mark.parametrize(
    ("one", "other", "pattern"),
    [
        ("tmp_path/66/5f49.val", "tmp_path/21/739b.val", "tmp_path/*/*.val"),
        ("tmp_path/.tmp_qlvb4sdk", "tmp_path/.tmp_x_b12xyz", "tmp_path/.tmp_*"),
        ("tmp_path/run-1a.json.part", "tmp_path/run-1b.json.part", "tmp_path/run-*.json.part"),
        ("tmp_path/tmp*.1", "tmp_path/tmp*.2", "tmp_path/tmp*.*"),
    ],
)
def test_what_is_another_in_each_run_has_a_pattern(one: str, other: str, pattern: str) -> None:
    assert varying(files("tmp_path/a", one), files("tmp_path/a", other)) == {Site(WRITE, pattern)}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (files("tmp_path/a"), files("tmp_path/a")),
        (files("tmp_path/a"), files("tmp_path/b", "tmp_path/c")),  # it does more
        (files("tmp_path/a"), files("tmp_path/b", function="shop.other")),
        (files("tmp_path/a"), files("tmp_path/b/c")),
        (files("a:1"), files("b:1")),
        (files("shop-1:1"), files("shop-2:1")),
        (files("shop"), files("shops")),
        (files("0"), files("1")),
    ],
)
def test_what_is_no_other_name_for_the_same_has_none(first: list[Site], second: list[Site]) -> None:
    assert varying(first, second) == frozenset()


def test_a_name_with_a_number_that_counts_up_is_the_same_in_each_run() -> None:
    patterns = varying(files("pool-2"), files("pool-10"))
    assert patterns == {Site(WRITE, "pool-*")}
    names = TargetNames(patterns=patterns)
    assert [names.of(WRITE, each) for each in ("pool-3", "pool-x", "other-3")] == [
        "pool-*", "pool-x", "other-3",
    ]  # fmt: skip


_NAMES = st.from_regex(r"[a-z0-9]{1,6}([._-][a-z0-9]{1,6}){0,2}", fullmatch=True)


@given(pairs=st.lists(st.tuples(_NAMES, _NAMES), min_size=2, max_size=4))
def test_a_pattern_is_the_name_of_both(pairs: list[tuple[str, str]]) -> None:
    one, other = ("tmp_path/" + "/".join(names) for names in zip(*pairs, strict=True))
    patterns = varying(files(one), files(other))
    names = TargetNames(temporary="/base", patterns=patterns)
    found = {names.of(WRITE, f"/base/test0/{each[9:]}") for each in (one, other)}
    assert found == ({each.target for each in patterns} or {one})
    assert names.of(READ, "/base/test0/a") == "tmp_path/a"


def test_a_run_is_named_again_by_patterns_that_were_found_after_it() -> None:
    sites = [*files("tmp_path/a-1.txt"), *files("tmp_path/b"), *files("tmp_path/a-2.txt")]
    run = [Seen(Point(site, 1), 1, "", (), 0.0) for site in sites]
    found = renamed(run, [Site(WRITE, "tmp_path/a-*.txt")])
    assert [(each.point.site.target, each.point.number) for each in found] == [
        ("tmp_path/a-*.txt", 1),
        ("tmp_path/b", 1),
        ("tmp_path/a-*.txt", 2),
    ]


def test_a_replay_knows_the_patterns_that_its_text_has() -> None:
    schedule = parse_schedule("write(tmp_path/*/*.val)@core.store#1=io_error")
    assert patterns_in(schedule) == {Site(WRITE, "tmp_path/*/*.val")}
    temporary = parse_schedule("write(tmp_path/tmp*.db)@core.save#1=io_error")
    assert patterns_in(temporary) == frozenset()


def test_what_is_done_under_faults_alone_is_done_to_a_file_by_the_name_that_it_has() -> None:
    names = TargetNames(temporary="/base", patterns={Site(WRITE, "tmp_path/.tmp_*")})
    target, other = "/base/test0/.tmp_1a", "/base/test0/.tmp_2b"

    def read(path: str) -> str:
        return names.of(READ, path)

    assert read(target) == "tmp_path/.tmp_1a"  # of which nothing is known yet
    assert names.of(WRITE, target) == "tmp_path/.tmp_*" == read(target)
    assert read(other) == "tmp_path/.tmp_2b"


def test_the_numbers_of_the_process_and_of_its_threads_and_the_time_are_left_out() -> None:
    names, now = TargetNames(temporary="/base"), MACHINE_CLOCK.time()
    day = datetime.datetime.fromtimestamp(now, datetime.UTC)
    momentary = (
        f"{os.getpid()}.{threading.get_ident()}",
        f"{threading.get_native_id()}-{now:.0f}",
        f"{now:.0f}.{time.time_ns()}",
        f"{now * 1000:.0f}.{day:%Y-%m-%d_%H-%M-%S_%f}",
        f"{day:%Y%m%dT%H%M%S}.{day:%Y_%m_%d}",
    )
    found = {names.of(WRITE, f"/base/test_pay0/app.{each}.log") for each in momentary}
    assert found == {f"tmp_path/app.{each}.log" for each in ("*", "*.*", "*-*")}


@pytest.mark.parametrize("name", ["app.1999-12-31", "19991231T235959", "1000000000", "v1.22.333"])
def test_other_numbers_stay(name: str) -> None:
    assert TargetNames().of(WRITE, f"/srv/{name}.log") == f"/srv/{name}.log"
