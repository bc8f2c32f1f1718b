"""What is asked for in a test happens every time; what is left to chance says what chance did."""

from __future__ import annotations

import re

from typing import Any

import pytest

from pytest_resilience import ChaosExperiment
from pytest_resilience import ChaosType
from pytest_resilience.chaos.triggers import Rate
from pytest_resilience.chaos.triggers import is_left_to_chance
from pytest_resilience.chaos.types.catalog import SCHEMAS
from pytest_resilience.plugin.experiment_requests import Defaults
from pytest_resilience.plugin.experiment_requests import RequestedBy
from pytest_resilience.plugin.experiment_requests import find_profile
from pytest_resilience.plugin.experiment_requests import from_parameters
from pytest_resilience.proxy import ChaosProxy


REQUIRED: dict[ChaosType, dict[str, Any]] = {
    ChaosType.SERVICE_FAILURE: {"target_services": "bank"},
    ChaosType.DISK_FAILURE: {"path": "data/**"},
}
CHOSEN = [each for each in ChaosType if any(p.name == "rate" for p in SCHEMAS[each].parameters)]
FAILURES = [each for each in CHOSEN if each.value.endswith("_failure")]


def triggers(
    kind: Any, requested_by: RequestedBy, defaults: Defaults | None = None, **given: Any
) -> object:
    defaults = defaults or Defaults()
    return from_parameters(kind, given, defaults, requested_by=requested_by).experiment.triggers


@pytest.mark.parametrize("requested_by", ["marker", "fixture"])
@pytest.mark.parametrize("kind", CHOSEN)
def test_asked_for_in_a_test_it_happens_every_time(
    kind: ChaosType, requested_by: RequestedBy
) -> None:
    required = REQUIRED.get(kind, {})
    assert triggers(kind, requested_by, **required) == ()
    assert triggers(ChaosExperiment("x", kind, **required), requested_by) == ()


@pytest.mark.parametrize("requested_by", ["marker", "fixture"])
@pytest.mark.parametrize("kind", FAILURES)
def test_unless_it_is_said_how_often(kind: ChaosType, requested_by: RequestedBy) -> None:
    required = REQUIRED.get(kind, {})
    ways: list[dict[str, Any]] = [{"rate": 0.3}, {"intensity": 0.3}]
    for said in ways:
        assert triggers(kind, requested_by, **said, **required) == (Rate(0.3),)
        by_experiment = ChaosExperiment("x", kind, **said, **required)
        assert triggers(by_experiment, requested_by) == (Rate(0.3),)
    assert triggers(kind, requested_by, Defaults(intensity=0.2), **required) == (Rate(0.2),)
    defaults = Defaults(intensity=0.2)
    assert triggers(kind, requested_by, defaults, rate=0.3, **required) == (Rate(0.3),)


@pytest.mark.parametrize("requested_by", ["flag", "profile", "monkey"])
@pytest.mark.parametrize("kind", FAILURES)
def test_asked_for_all_tests_the_intensity_says_how_often(
    kind: ChaosType, requested_by: RequestedBy
) -> None:
    assert triggers(kind, requested_by, **REQUIRED.get(kind, {})) == (Rate(0.5),)


def test_through_a_proxy_it_happens_every_time_too() -> None:
    with ChaosProxy("127.0.0.1:1") as proxy:
        with proxy.inject("network_failure", mode="reset", must_fire=False) as reset:
            assert reset.experiment.triggers == ()
        with proxy.inject("network_failure", mode="reset", rate=0.5, must_fire=False) as half:
            assert half.experiment.triggers == (Rate(0.5),)


@pytest.mark.parametrize("seed", range(8))
def test_a_failure_that_is_expected_fails_under_every_seed(
    suite: pytest.Pytester, seed: int
) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.chaos("network_failure", mode="refuse")
        def test_marked(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)

        def test_in_a_block(url, chaos):
            with chaos.network_failure(mode="reset"), pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)
    """)
    suite.runpytest(f"--chaos-seed={seed}").assert_outcomes(passed=2)


def test_a_test_that_chance_has_spared_says_so_when_it_fails(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.chaos("network_failure", mode="refuse", rate=0)
        def test_never_hit(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)

        @pytest.mark.chaos("network_failure", mode="refuse", probability=0, name="outage")
        def test_never_begun(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)

        @pytest.mark.chaos("network_failure", mode="refuse", nth=2)
        def test_not_by_chance(url):
            with pytest.raises(requests.ConnectionError):
                requests.get(url, timeout=5)

        @pytest.mark.chaos("network_failure", mode="refuse", rate=0)
        def test_that_passes(url):
            requests.get(url, timeout=5)
    """)
    result = suite.runpytest()
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines(
        [
            "network_failure: by chance it spared 1 of 1 operations (rate 0); rate=1 hits them all",
            "outage: by chance it did not start (probability 0)",
        ]
    )
    assert result.stdout.str().count("by chance") == 2


def test_a_proxy_heeds_the_flag_and_says_what_chance_has_spared(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest
        import requests

        @pytest.mark.parametrize("given", [{}, {"intensity": 1}])
        def test_it(url, chaos_proxy, given):
            proxy = chaos_proxy(url.split("/")[2])
            with proxy.inject("network_failure", mode="reset", **given):
                with pytest.raises(requests.ConnectionError):
                    requests.get(f"http://{proxy.listen}/", timeout=5)
    """)
    result = suite.runpytest("--chaos-intensity=0")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        ["network_failure: by chance it spared 1 of 1 operations (rate 0); rate=1 hits them all"]
    )


PROFILES = """
[tool.pytest_resilience.profiles.ci]
seed = 7
intensity = 0.003
markers = "network and not slow"
paths = ["test_shop*"]

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "slow shop"
chaos_type = "network_latency"
target = "127.0.0.1"
weight = 2

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "dead stock"
chaos_type = "service_failure"
target_services = ["stock"]
rate = 1

[tool.pytest_resilience.profiles.ci.services]
stock = "shop:stock"

[tool.pytest_resilience.profiles.more]
intensity = 0.004

[[tool.pytest_resilience.profiles.more.experiments]]
chaos_type = "network_latency"

[tool.pytest.ini_options]
markers = ["network", "slow"]
"""

SHOP = """
def stock():
    return 3
"""


@pytest.fixture
def shop(suite: pytest.Pytester) -> pytest.Pytester:
    suite.makepyprojecttoml(PROFILES)
    suite.makepyfile(shop=SHOP)
    suite.syspathinsert()
    return suite


def test_a_profile_puts_the_tests_it_selects_under_its_experiments(shop: pytest.Pytester) -> None:
    body = """
        import pytest
        import requests
        import shop

        @pytest.mark.network
        def test_selected(chaos, url):
            requests.get(url, timeout=5)
            with pytest.raises(Exception, match="service 'stock' failed"):
                shop.stock()
            assert [(event.source, event.delay) for event in chaos.events] == [
                ("slow shop", 0.006), ("slow shop", 0.006), ("dead stock", 0.0)
            ]

        @pytest.mark.network
        @pytest.mark.slow
        def test_slow(chaos):
            assert shop.stock() == 3

        @pytest.mark.network
        @pytest.mark.no_chaos
        def test_exempt(chaos):
            assert shop.stock() == 3

        def test_unmarked(chaos):
            assert shop.stock() == 3
    """
    shop.makepyfile(test_shop=body)
    shop.makepyfile(
        test_other="""
        import pytest
        import shop

        @pytest.mark.network
        def test_elsewhere():
            assert shop.stock() == 3
    """
    )
    result = shop.runpytest("--chaos-profile=ci")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(
        [
            "chaos: seed 7",
            "  profile ci: 2 experiments",
            "slow shop: latency 6ms, always, target 127.0.0.1 [[]profile] - 1 test, matched 2, *",
            "dead stock: * target stock (shop:stock) [[]profile] - 1 test, matched 1, hit 1",
        ]
    )


def test_profiles_compose_and_the_last_one_wins(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_shop="""
        import pytest
        import requests

        @pytest.mark.network
        def test_both(chaos, url):
            requests.get(url, timeout=5)
            assert {event.source: event.delay for event in chaos.events} == {
                "slow shop": 0.008, "network_latency": 0.008
            }
    """
    )
    result = shop.runpytest("--chaos-profile=ci", "--chaos-profile=more")
    result.assert_outcomes(passed=1)


def test_flags_overrule_profiles_and_markers_overrule_both(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_shop="""
        import pytest
        import requests

        @pytest.mark.network
        @pytest.mark.chaos("network_latency", intensity=0.001, name="own")
        def test_all(chaos, url):
            requests.get(url, timeout=5)
            assert {event.source: event.delay for event in chaos.events} == {
                "slow shop": 0.01, "own": 0.002
            }
    """
    )
    result = shop.runpytest("--chaos-profile=ci", "--chaos-intensity=0.005", "--chaos-seed=9")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("chaos: seed 9")


def test_a_failure_is_repeated_with_its_profile(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_shop="""
        import pytest
        import shop

        @pytest.mark.network
        def test_stock():
            assert shop.stock() == 3
    """
    )
    result = shop.runpytest("--chaos-profile=ci")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        "repeat: pytest test_shop.py::test_stock --chaos-seed=7 --chaos-profile=ci"
    )


SHIPPED = [
    "database-trouble", "dns-trouble", "flaky-network", "full-disk", "llm-api", "mobile",
    "object-store", "slow-network",
]  # fmt: skip


def test_those_that_come_with_the_package_are_listed(shop: pytest.Pytester) -> None:
    shop.makepyfile("raise AssertionError('not collected')")
    result = shop.runpytest("--chaos-profile=?")
    assert result.ret == 0
    heads = [line.partition(":")[0] for line in result.outlines if re.match(r"[a-z-]+(:|$)", line)]
    assert heads[:2] == ["ci", "more"]
    assert sorted(heads[2:]) == SHIPPED
    result.stdout.fnmatch_lines(
        [
            "mobile: phones: *",
            "  3G fast: 150 ms a round trip: latency 150ms, always, target any",
            "  a tunnel of 3 s: partition, always, target any",
            "llm-api: *",
            "  429 rate limited, retry after 1 s: status 429, Retry-After 1, the first 1, *",
            "  529 overloaded: status 529, the first 1, target method [*]",
        ]
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_each_that_comes_with_the_package_says_how_much(
    pytester: pytest.Pytester, name: str
) -> None:
    """In physical values: none goes by an intensity, and none is left to chance."""
    profile = find_profile(pytester.parseconfig(), name)
    assert profile.description
    for each in profile.experiments:
        assert "intensity" not in each.parameters
        assert not is_left_to_chance(each.make().triggers), each.name
        delays = {"delay", "bandwidth"} & each.parameters.keys()
        assert delays or each.kind not in {"network_latency", "database_slowdown"}


CLIENT = """
    import requests

    def test_that_tries_again(url):
        for _ in range(2):
            try:
                assert requests.get(url, timeout=5).text == "ok"
            except requests.ConnectionError:
                continue
            return
        raise TimeoutError

    def test_that_does_not(url):
        assert requests.get(url, timeout=5).text == "ok"

    def test_pure():
        pass
"""


def test_one_of_them_runs_in_the_matrix_without_any_configuration(suite: pytest.Pytester) -> None:
    suite.makepyfile(CLIENT)
    result = suite.runpytest(
        "-p", "no:randomly", "--chaos-profile=flaky-network", "--chaos-matrix",
        "--chaos-experiment=first connection refused", "--chaos-experiment=first response reset",
        "--chaos-experiment=first response cut off in the middle",
    )  # fmt: skip
    assert result.ret == 10
    result.stdout.fnmatch_lines(
        [
            "first connection refused: 1 not applicable, 1 survived, 1 failed",
            "first response reset: 1 not applicable, 1 survived, 1 failed",
            "first response cut off in the middle: 1 not applicable, 2 failed",
            "* 3 passed, 9 cells (*",
        ]
    )


@pytest.mark.parametrize("name", ["dns-trouble", "llm-api", "object-store", "database-trouble"])
def test_none_of_them_proves_nothing_of_ordinary_tests(suite: pytest.Pytester, name: str) -> None:
    suite.makepyfile("""
        import contextlib
        import sqlite3

        import requests

        def test_it(url, tmp_path):
            requests.get(url.replace("127.0.0.1", "localhost"), timeout=0.5).raise_for_status()
            with contextlib.closing(sqlite3.connect(tmp_path / "orders")) as orders, orders:
                orders.execute("CREATE TABLE tea (name)")
                orders.execute("INSERT INTO tea VALUES ('green')")
    """)
    result = suite.runpytest(f"--chaos-profile={name}", "--chaos-matrix")
    assert result.ret == 10
    for nothing in ("never fired", "invalid", "not started", "proving nothing"):
        result.stdout.no_fnmatch_line(f"*{nothing}*")


def test_ones_own_of_the_same_name_takes_its_place(suite: pytest.Pytester) -> None:
    suite.makepyprojecttoml(
        "[[tool.pytest_resilience.profiles.mobile.experiments]]\n"
        'name = "on the moon"\nchaos_type = "network_latency"\ndelay = "1ms"'
    )
    suite.makepyfile("""
        import requests

        def test_it(url, chaos):
            requests.get(url, timeout=5)
            assert {event.source for event in chaos.events} == {"on the moon"}
    """)
    suite.runpytest("--chaos-profile=mobile").assert_outcomes(passed=1)
    listed = suite.runpytest("--chaos-profile=?")
    listed.stdout.fnmatch_lines(["mobile", "  on the moon: latency 1ms, *"])
    listed.stdout.no_fnmatch_line("*LTE*")


def test_a_file_of_its_own(shop: pytest.Pytester) -> None:
    folder = shop.mkdir("chaos")
    (folder / "profiles.toml").write_text(
        '[[profiles.ci.experiments]]\nchaos_type = "network_latency"\ndelay = "1us"\n'
    )
    shop.makepyfile("def test(): pass")
    result = shop.runpytest("--chaos-profile=chaos/profiles.toml:ci")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("network_latency: latency 1us, *[[]profile] - 1 test, never fired*")


SELECTS = """
[tool.pytest.ini_options]
markers = ["slow"]

[tool.pytest_resilience.profiles.ci]
{how}
experiments = [{{chaos_type = "network_latency", delay = "1us"}}]
"""


@pytest.mark.parametrize(
    "paths", ["tests", "tests/", "tests/few", "*/few", "*.py", "tests/*/test_*"]
)
def test_a_path_is_a_glob_of_files_or_of_folders_with_all_below(
    suite: pytest.Pytester, paths: str
) -> None:
    suite.makepyprojecttoml(SELECTS.format(how=f"paths = ['{paths}']"))
    suite.makepyfile(**{"tests/few/test_it": "def test(): pass", "test_other": ""})
    result = suite.runpytest("--chaos-profile=ci")
    result.stdout.fnmatch_lines("network_latency: * [[]profile] - 1 test, *")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("paths = ['test', 'no/test_*.py']", "; it selects by paths test, no/test_[*].py"),
        ("markers = 'slow'", "; it selects by markers slow"),
        ("paths = 'no'\nmarkers = 'slow'", "; it selects by paths no and markers slow"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["-n1", "-p", "xdist"]], ids=["here", "in workers"])
def test_a_profile_that_selects_no_test_says_so(
    suite: pytest.Pytester, how: str, said: str, flags: list[str]
) -> None:
    suite.makepyprojecttoml(SELECTS.format(how=how))
    suite.makepyfile(test_it="def test(): pass")
    result = suite.runpytest("--chaos-profile=ci", *flags)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= chaos (seed *) =*", f"profile ci - around no test{said}"])


@pytest.mark.parametrize("flags", [["--no-chaos"], ["--chaos-operations"], ["--collect-only"]])
def test_nor_does_one_say_so_where_no_test_was_to_have_any(
    suite: pytest.Pytester, flags: list[str]
) -> None:
    suite.makepyprojecttoml(SELECTS.format(how="paths = 'no'"))
    suite.makepyfile(test_it="def test(): pass")
    result = suite.runpytest("--chaos-profile=ci", *flags)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*around no test*")


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("tool.pytest-resilience.profiles.ci", "[[]tool] has an unknown key 'pytest-resilience'"),
        ("tool.pytest_resilience.profile.ci", "[[]tool.pytest_resilience] * unknown key 'profile'"),
        ("tool.pytest_resilience.ci", "[[]tool.pytest_resilience] has an unknown key 'ci'"),
    ],
)
@pytest.mark.parametrize("name", ["ci", "flaky-network", "?"])
def test_tables_that_nobody_would_read_are_refused(
    suite: pytest.Pytester, table: str, why: str, name: str
) -> None:
    suite.makepyprojecttoml(f"[{table}]\nseed = 1")
    result = suite.runpytest(f"--chaos-profile={name}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "a profile is a table [[]tool.pytest_resilience.profiles.NAME]"
    result.stderr.fnmatch_lines(f"ERROR: */pyproject.toml: {why}; {said}")


def test_a_rootdir_without_the_file_of_profiles_says_so(suite: pytest.Pytester) -> None:
    suite.makepyprojecttoml(SELECTS.format(how=""))
    suite.makefile(".ini", **{"below/pytest": "[pytest]"})
    suite.makepyfile(**{"below/test_it": "def test(): pass"})
    result = suite.runpytest("below", "--chaos-profile=ci")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "which is not there; in another it is FILE.toml:NAME"
    result.stderr.fnmatch_lines(f"ERROR: */below/pyproject.toml: no profile 'ci'; *, {said}")
    result = suite.runpytest("below", "--chaos-profile=pyproject.toml:ci")
    result.stdout.fnmatch_lines("network_latency: * [[]profile] - 1 test, *")


def test_tables_of_others_are_none_of_them(suite: pytest.Pytester) -> None:
    suite.makepyprojecttoml("[tool.resilience]\n[tool.pytest-resilience-more]\nprofile = 3")
    assert (
        suite.runpytest("--chaos-profile=flaky-network").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mor", "*pyproject.toml: no profile 'mor' (did you mean 'more'?); known: ci, *more*"),
        ("zzzz", "*no profile 'zzzz'; *; one of your own is a table *pytest_resilience.profiles.*"),
        ("odd.toml", "*; of a file give one of its profiles, as odd.toml:NAME"),
        ("table.toml:ci", "*; in a file of its own a profile is a table [[]profiles.NAME]"),
        ("no.toml:ci", "*no.toml cannot be read: No such file or directory"),
        ("bad.toml:ci", "*bad.toml cannot be read: *line 2*"),
        ("odd.toml:key", "*odd.toml: profile 'key': unknown key 'gat' (did you mean 'gate'?)*"),
        ("odd.toml:kind", "*profile 'kind': experiment 1: unknown chaos type 'networ'*"),
        ("odd.toml:none", "*profile 'none': experiment 1: chaos_type is missing; *_latency'"),
        ("odd.toml:alike", "*experiment 1: chaos_type is missing; *, instead of 'chaos_typ'"),
        ("odd.toml:twice", "*two experiments are named 'network_latency'; give each its own name"),
        ("odd.toml:weight", "*experiment 1: weight=0: give a number above 0"),
        ("odd.toml:type", "*profile 'type': experiment 1: unknown chaos type 3; known: *"),
        ("odd.toml:interval", "*profile 'interval': interval='0s': give 100us or more"),
        ("odd.toml:paths", "*profile 'paths': paths=3: give a text, or a list of them"),
        ("odd.toml:services", "*target_services=3: give the names of services"),
        ("odd.toml:gate", "*profile 'gate': gate=101 is outside 0..100; *"),
        ("odd.toml:seed", "*seed=-1: give a whole number from 0 to *"),
        ("odd.toml:markers", "*markers='a and': *"),
        ("odd.toml:service", "*unknown service 'ghost'*"),
        ("odd.toml:empty", "*profile 'empty': it says nothing; *"),
        (
            "odd.toml:nothing",
            "*profile 'nothing' has no experiments, *; write each as [[][[]…nothing.experiments]]",
        ),
        ("odd.toml:target", "*experiment 1: target {'a': 1} is not a text; *"),
        ("odd.toml:load", "*experiment 1: load=0: that is no stress at all; give more"),
        ("odd.toml:lines", "*experiment 1: name='a\\nb': an experiment has a name of one line*"),
        ("deep.toml:ci", "*deep.toml cannot be read: it is nested too deeply"),
        ("digits.toml:ci", "*digits.toml cannot be read: *digits*"),
        ("binary.toml:ci", "*binary.toml cannot be read: *"),
        ("folder.toml:ci", "*folder.toml cannot be read: *directory*"),
    ],
)
def test_bad_profiles(shop: pytest.Pytester, name: str, why: str) -> None:
    odd = {
        "key": "gat = 3",
        "kind": 'experiments = [{chaos_type = "networ"}]',
        "none": "experiments = [{delay = 1}]",
        "alike": "experiments = [{delay = 1, chaos_typ = 'network_latency'}]",
        "twice": 'experiments = [{chaos_type="network_latency"}, {chaos_type="network_latency"}]',
        "weight": 'experiments = [{chaos_type = "network_latency", weight = 0}]',
        "gate": "gate = 101",
        "type": "experiments = [{chaos_type = 3}]",
        "interval": 'interval = "0s"',
        "paths": "paths = 3",
        "services": 'experiments = [{chaos_type = "service_failure", target_services = 3}]',
        "seed": "seed = -1",
        "markers": 'markers = "a and"\nexperiments = [{chaos_type="network_latency"}]',
        "empty": "",
        "nothing": "gate = 90\nexperiments = []",
        "target": 'experiments = [{chaos_type="network_latency", target={a=1}}]',
        "load": 'experiments = [{chaos_type="cpu_stress", load=0}]',
        "lines": 'experiments = [{chaos_type="network_latency", name="a\\nb"}]',
        "service": 'experiments = [{chaos_type="service_failure", target_services=["ghost"]}]',
    }
    tables = "\n".join(f"[profiles.{key}]\n{text}" for key, text in odd.items())
    shop.makefile(".toml", odd=tables, bad="[profiles.ci]\ngate ==\n", table="[ci]\n")
    (shop.path / "deep.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    (shop.path / "digits.toml").write_text("a = " + "1" * 5000)
    (shop.path / "binary.toml").write_bytes(bytes(range(256)))
    (shop.path / "folder.toml").mkdir()
    for flag in ("--chaos-profile", "--chaos-monkey"):
        if (flag, name) == ("--chaos-monkey", "odd.toml:markers"):
            continue  # a monkey chooses no tests
        result = shop.runpytest(f"{flag}={name}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(f"ERROR: {why}")
        assert "Traceback" not in result.stderr.str()
