"""The grammar of schedules: what is written is read back, what is wrong told with its place."""

from __future__ import annotations

import pytest

from hypothesis import given
from hypothesis import strategies as st

from pytest_resilience.chaos.operation import CONNECT
from pytest_resilience.chaos.operation import KINDS
from pytest_resilience.chaos.operation import OPEN_CONNECTION
from pytest_resilience.chaos.operation import TURNS
from pytest_resilience.chaos.operation import WRITE
from pytest_resilience.chaos.possible_faults import CRASHES
from pytest_resilience.chaos.possible_faults import CRASHING
from pytest_resilience.chaos.possible_faults import OF_OTHERS
from pytest_resilience.chaos.possible_faults import fault_names
from pytest_resilience.errors import ConfigurationError
from pytest_resilience.exploration.schedule import Point
from pytest_resilience.exploration.schedule import ScheduleError
from pytest_resilience.exploration.schedule import Site
from pytest_resilience.exploration.schedule import Step
from pytest_resilience.exploration.schedule import format_schedule
from pytest_resilience.exploration.schedule import kind_name
from pytest_resilience.exploration.schedule import parse_schedule


EXPLORED = sorted(kind for kind in KINDS | TURNS if fault_names(kind))
texts = st.text(min_size=1, max_size=30)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    kind = draw(st.sampled_from(EXPLORED))
    fault = draw(st.sampled_from([each for each in fault_names(kind) if each not in CRASHES]))
    site = Site(kind, draw(texts), draw(st.just("") | texts))
    point = Point(site, draw(st.integers(1, 999_999_999)))
    return Step(point, fault, fault not in OF_OTHERS and draw(st.booleans()))


@st.composite
def schedules(draw: st.DrawFn) -> list[Step]:
    """Some faults, and perhaps a crash."""
    found = draw(st.lists(steps(), min_size=1, max_size=4, unique_by=lambda step: step.point))
    if draw(st.booleans()):
        site = Site(draw(st.sampled_from(sorted(CRASHING))), draw(texts), draw(texts))
        point = Point(site, draw(st.integers(1, 9)))
        if point not in {step.point for step in found}:
            found.append(Step(point, draw(st.sampled_from(sorted(CRASHES)))))
    return found


@given(schedules())
def test_what_is_written_is_read_back(schedule: list[Step]) -> None:
    text = format_schedule(schedule)
    assert text.isprintable()
    assert parse_schedule(text) == tuple(schedule)
    assert format_schedule(parse_schedule(text)) == text


@given(st.text(max_size=60) | st.text('conect(pay:43)@#1+=," \\refus', max_size=40))
def test_any_text_is_read_or_refused_with_a_place_in_it(text: str) -> None:
    column, problem = 1, ""
    try:
        parse_schedule(text)
    except ScheduleError as error:
        column, problem = error.column, str(error)
    except ConfigurationError as error:
        problem = str(error)
    assert 1 <= column <= len(text) + 1
    assert not problem or f"column {column}" in problem or "has two faults" in problem


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        (
            "connect(payments:443)#1=refuse",
            [Step(Point(Site(CONNECT, "payments:443"), 1), "refuse")],
        ),
        (
            "network.connect(a:1)@shop.pay#2+=timeout,write(b c.json)#1=disk_full",
            [
                Step(Point(Site(CONNECT, "a:1", "shop.pay"), 2), "timeout", lasts=True),
                Step(Point(Site(WRITE, "b c.json"), 1), "disk_full"),
            ],
        ),
        (
            'database.connect("(memory)")@shop.<lambda>#1=refused',
            [Step(Point(Site(OPEN_CONNECTION, "(memory)", "shop.<lambda>"), 1), "refused")],
        ),
    ],
)
def test_what_people_write(text: str, schedule: list[Step]) -> None:
    assert parse_schedule(text) == tuple(schedule)


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("", 1, "found the end, expected a kind of operation"),
        (" connect( a:1)#1=refuse", 10, "a target"),
        ("connect", 8, r"\( and the target"),
        ("conect(a:1)#1=refuse", 1, r"found 'conect', .* \(did you mean 'connect'\?\): call, "),
        ("close(a:1)#1=refuse", 1, "a kind of operation"),
        ("connect(a:1#1=refuse", 21, r"\) behind the target"),
        ("connect(a:1)=refuse", 13, "# and a number"),
        ("connect(a:1)@#1=refuse", 14, "a function"),
        ("connect(a:1)#0=refuse", 14, "a number from 1"),
        ("connect(a:1)#x=refuse", 14, "a number from 1"),
        ("connect(a:1)#9999999999=refuse", 14, "a number from 1"),
        ("connect(a:1)#1", 15, "= and a fault"),
        ("connect(a:1)#1=", 16, "a fault"),
        ("connect(a:1)#1=refused", 16, "did you mean 'refuse'"),
        ("connect(a:1)#1=refuse; connect", 22, "found ';', expected a comma, or the end;"),
        ("connect(a:1)#1=refuse,", 23, "a kind of operation"),
        ('connect("a:1)#1=refuse', 9, "a closing double quote"),
        (r'connect("\x")#1=refuse', 9, "in quotes as JSON"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, column: int, expected: str) -> None:
    with pytest.raises(ScheduleError, match=expected) as caught:
        parse_schedule(text)
    assert caught.value.column == column


@pytest.mark.parametrize("kind", ["lock(shop.pay)", "sleep(task)", "start(thread)", "commit(db)"])
def test_an_operation_may_be_later_than_all_others_once(kind: str) -> None:
    [step] = parse_schedule(f"{kind}@shop.pay#2=later")
    assert step.is_order
    assert format_schedule([step]) == f"{kind}@shop.pay#2=later"
    with pytest.raises(ScheduleError, match="a fault that stays"):
        parse_schedule(f"{kind}@shop.pay#2+=later")


def test_an_operation_has_one_fault() -> None:
    with pytest.raises(ConfigurationError, match="has two faults"):
        parse_schedule("connect(a:1)#1=refuse, connect(a:1)#1=timeout")


def test_kinds_have_short_names_that_tell_them_apart() -> None:
    names = [kind_name(kind) for kind in EXPLORED]
    assert len(set(names)) == len(names)
    assert kind_name(CONNECT) == "connect"
    assert kind_name(OPEN_CONNECTION) == "database.connect"


@pytest.mark.parametrize("fault", CRASHES)
def test_a_crash_is_at_what_changes_a_disk_once_and_last(fault: str) -> None:
    text = f"write(conf)@shop.save#2={fault}"
    [step] = parse_schedule(text)
    assert step.is_crash
    assert format_schedule([step]) == text
    with pytest.raises(ScheduleError, match="a fault that stays"):
        parse_schedule(text.replace("=", "+="))
    with pytest.raises(ConfigurationError, match="put it last"):
        parse_schedule(f"{text}, read(conf)#1=io_error")
    assert len(parse_schedule(f"read(conf)#1=io_error, {text}")) == 2
    with pytest.raises(ScheduleError, match="a fault of read: io_error, "):
        parse_schedule(f"read(conf)#1={fault}")
