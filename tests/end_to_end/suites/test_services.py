from __future__ import annotations

import pytest


SHOP = """
import asyncio

class Inventory:
    def check(self, item):
        return 3

    @staticmethod
    def price(item):
        return 4

    @classmethod
    def name(cls):
        return cls.__name__

    async def reserve(self, item):
        await asyncio.sleep(0)
        return "reserved"

def charge(amount):
    return "charged"
"""

INI = """
[pytest]
chaos_services =
    inventory = shop:Inventory.check | shop:Inventory.price | shop:Inventory.name |\
 shop:Inventory.reserve
    payment = shop:charge
    web = 127.0.0.1
    ghost = shop:Inventory.chek
"""


@pytest.fixture
def shop(suite: pytest.Pytester) -> pytest.Pytester:
    """A suite with services, among them one of the server on loopback."""
    suite.makepyfile(shop=SHOP)
    suite.syspathinsert()
    suite.makefile(".ini", pytest=INI)
    return suite


def test_callables_of_every_kind_fail_and_work_again(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import asyncio
        import inspect

        import pytest
        import shop

        from pytest_resilience import ServiceFailureError

        def test_all(chaos):
            before = dict(vars(shop.Inventory))
            with chaos.service_failure("inventory", rate=1) as outage:
                for call in (
                    lambda: shop.Inventory().check("tea"),
                    lambda: shop.Inventory.price("tea"),
                    lambda: shop.Inventory().price("tea"),
                    lambda: shop.Inventory.name(),
                    lambda: asyncio.run(shop.Inventory().reserve("tea")),
                ):
                    with pytest.raises(ServiceFailureError, match="service 'inventory' failed"):
                        call()
                assert inspect.iscoroutinefunction(shop.Inventory.reserve)
                assert shop.charge(1) == "charged"
            assert outage.hits == 5
            assert {event.target for event in chaos.events} == {"inventory"}
            assert dict(vars(shop.Inventory)) == before
            assert shop.Inventory.name() == "Inventory"

        @pytest.mark.chaos(
            "service_failure", target_services=["payment"], exception=TimeoutError, nth=2, rate=1
        )
        def test_the_second():
            assert shop.charge(1) == "charged"
            with pytest.raises(TimeoutError, match="service 'payment' failed"):
                shop.charge(1)
            assert shop.charge(1) == "charged"

        @pytest.mark.chaos("service_failure", target_services="payment", rate=0)
        def test_let_through():
            assert shop.Inventory().check("tea") == 3
            assert shop.charge(1) == "charged"
            assert asyncio.run(shop.Inventory().reserve("tea")) == "reserved"
    """)
    shop.runpytest().assert_outcomes(passed=3)


def test_hosts_fail_on_the_wire(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest
        import requests

        from requests.adapters import HTTPAdapter
        from urllib3 import Retry

        @pytest.mark.chaos("service_failure", target_services=["web"], rate=1)
        def test_refused(url):
            with pytest.raises(requests.ConnectionError, match="refused"):
                requests.get(url, timeout=5)

        @pytest.mark.chaos("service_failure", target_services=["web"], rate=1, retry_after=9)
        def test_unavailable(url):
            response = requests.get(url, timeout=5)
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "9"
            assert response.text == "Service Unavailable"

        @pytest.mark.chaos("service_failure", target_services=["web"], rate=1, first=2, status=500)
        def test_tried_again(url):
            with requests.Session() as session:
                retry = Retry(total=3, status_forcelist=[500])
                session.mount("http://", HTTPAdapter(max_retries=retry))
                response = session.get(url, timeout=5)
            assert response.text == "ok"
            assert [entry.status for entry in response.raw.retries.history] == [500, 500]
    """)
    shop.runpytest().assert_outcomes(passed=3)


def test_a_flag_can_name_services(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest
        import shop

        def test_charge():
            with pytest.raises(KeyError):
                shop.charge(1)
    """)
    spec = "service_failure:target_services=payment|inventory,exception=KeyError,rate=1"
    result = shop.runpytest(f"--chaos={spec}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("service_failure: KeyError, always, target payment (shop:charge)*")


def test_a_test_declares_services_for_itself(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest
        import shop

        from pytest_resilience import ConfigurationError, DuplicateNameError, ServiceFailureError

        @pytest.mark.parametrize("again", [1, 2])
        def test_charge(chaos, again):
            chaos.service("billing", "shop:charge")
            with chaos.service_failure("billing", rate=1), pytest.raises(ServiceFailureError):
                shop.charge(1)
            with pytest.raises(DuplicateNameError):
                chaos.service("billing", "shop:charge")

        def test_it_is_gone(chaos):
            with pytest.raises(ConfigurationError, match="unknown service 'billing'; known: ghost"):
                chaos.service_failure("billing")
    """)
    shop.runpytest().assert_outcomes(passed=3)


def test_what_never_fires_is_an_error(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest

        @pytest.mark.chaos("service_failure", target_services=["payment"])
        def test_idle():
            pass
    """)
    result = shop.runpytest()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines("*(*, target payment (shop:charge)) never fired*")


def test_a_callable_that_is_not_there(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest

        @pytest.mark.chaos("service_failure", target_services=["ghost"])
        def test_ghost():
            pass
    """)
    result = shop.runpytest()
    result.assert_outcomes(failed=1)
    told = "*service ghost: no shop:Inventory.chek: *has no attribute*"
    result.stdout.fnmatch_lines(told)
    result.stdout.no_fnmatch_line("*direct cause*")
    result.stdout.no_fnmatch_line("*another exception occurred*")


def test_unknown_services_fail_at_collection(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest

        @pytest.mark.chaos("service_failure", target_services=["paymant"])
        def test_charge():
            pass
    """)
    result = shop.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        "*py:3: unknown service 'paymant' (did you mean 'payment'?); known: ghost, inventory, *"
    )


def test_a_marker_names_what_a_fixture_declares(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest
        import shop

        from pytest_resilience import ServiceFailureError

        @pytest.fixture
        def bank(chaos):
            chaos.service("bank", "shop:charge")

        @pytest.mark.chaos("service_failure", target_services=["bank"])
        def test_by_another_fixture(bank):
            with pytest.raises(ServiceFailureError, match="service 'bank' failed"):
                shop.charge(1)

        @pytest.mark.chaos("service_failure", target_services=["bank", "payment"])
        def test_beside_one_of_the_ini_file(bank):
            with pytest.raises(ServiceFailureError):
                shop.charge(1)
    """)
    shop.runpytest().assert_outcomes(passed=2)
    shop.runpytest("--no-chaos").assert_outcomes(failed=2)  # nothing is raised there
    shop.runpytest("-n", "1", "-p", "xdist").assert_outcomes(passed=2)


def test_a_marker_names_what_no_fixture_has_declared(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest

        @pytest.mark.chaos("service_failure", target_services=["bank"])
        def test_too_late(chaos):
            chaos.service("bank", "shop:charge")
    """)
    result = shop.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        "chaos experiment 'service_failure': unknown service 'bank'; known: ghost, *. Declare "
        "it in the ini option chaos_services or in a profile. * chaos.service() declares "
        "before, in a fixture that the test asks for"
    )
    result.stdout.no_fnmatch_line("*pytest_resilience?plugin*")


def test_markers_that_begin_before_fixtures_cannot_name_theirs(shop: pytest.Pytester) -> None:
    shop.makepyfile("""
        import pytest

        @pytest.fixture
        def bank(chaos):
            chaos.service("bank", "shop:charge")

        @pytest.mark.chaos("service_failure", target_services=["bank"], include_setup=True)
        def test_charge(bank):
            pass
    """)
    result = shop.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("*py:7: unknown service 'bank'; *markers unless they include *")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("payment", "ini option chaos_services: * write it as"),
        ("a = b:1\n    a = c:1", "a service named 'a' exists already"),
    ],
)
def test_bad_declarations(pytester: pytest.Pytester, lines: str, why: str) -> None:
    pytester.makefile(".ini", pytest=f"[pytest]\nchaos_services =\n    {lines}\n")
    result = pytester.runpytest("--chaos=network_latency")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(f"*{why}*")
