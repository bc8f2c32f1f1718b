"""Tests of every kind are explored alike: coroutines, classes, with fixtures of all scopes."""

from __future__ import annotations

import importlib.util
import textwrap

import pytest

from tests.cells import cells_of


CODE = """
import asyncio
import pathlib

def load(path):
    try:
        return path.read_text()
    except OSError:
        return None

def shout(path):
    return load(path).upper()

async def ask(port):
    async with asyncio.timeout(1):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"?")
            return await reader.readexactly(1)
        finally:
            writer.close()
"""

# Of each kind one that holds, and one that fails under faults.
WAYS = {
    "a function": """
        @pytest.mark.parametrize("way", [shop.load, shop.shout])
        def test_it(note, way):
            assert way(note) in ("hello", "HELLO", None)
    """,
    "a class": """
        class TestIt:
            @pytest.fixture(autouse=True)
            def opened(self, note):
                self.note, self.fresh = note, not hasattr(self, "note")
            def test_load(self):
                assert self.fresh and shop.load(self.note) in ("hello", None)
            def test_shout(self):
                assert self.fresh and shop.shout(self.note) == "HELLO"
    """,
    "unittest": """
        import tempfile
        import unittest
        class TestIt(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                made.append("class")
            def setUp(self):
                folder = tempfile.TemporaryDirectory()
                self.addCleanup(folder.cleanup)
                self.note = pathlib.Path(folder.name, "note.txt")
                self.note.write_text("hello")
            def test_load(self):
                self.assertIn(shop.load(self.note), ("hello", None))
            def test_shout(self):
                self.assertEqual(shop.shout(self.note), "HELLO")
            def test_twice(self):
                for number in range(2):
                    with self.subTest(number=number):
                        self.assertEqual(shop.shout(self.note), "HELLO")
            @classmethod
            def tearDownClass(cls):
                assert made == ["class"]
    """,
    "fixtures of wider scopes": """
        @pytest.fixture(scope="module")
        def of_module(tmp_path_factory):
            made.append("module")
            path = tmp_path_factory.mktemp("module") / "note.txt"
            path.write_text("hello")
            yield path
            made.remove("module")
        @pytest.fixture(scope="class")
        def of_class(of_module):
            made.append("class")
            yield of_module
            made.remove("class")
        class TestIt:
            def test_load(self, of_class):
                assert shop.load(of_class) in ("hello", None)
                assert made == ["module", "class"]
            def test_shout(self, of_class):
                assert shop.shout(of_class) == "HELLO"
        def test_load(of_module):
            assert shop.load(of_module) in ("hello", None)
            assert made == ["module"]
    """,
    "subtests": """
        def test_load(note, subtests):
            for number in range(2):
                with subtests.test(number=number):
                    assert shop.load(note) in ("hello", None)
        def test_shout(note, subtests):
            for number in range(2):
                with subtests.test(number=number):
                    assert shop.shout(note) == "HELLO"
    """,
    "pytest_asyncio": """
        import pytest_asyncio
        @pytest_asyncio.fixture
        async def server():
            async def answer(reader, writer):
                await reader.read(1)
                writer.write(b"!")
                writer.close()
            async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
                yield server.sockets[0].getsockname()[1]
        @pytest.mark.asyncio
        async def test_load(server):
            assert len(await shop.ask(server)) == 1
        @pytest.mark.asyncio
        async def test_shout(server, note):
            assert shop.shout(note) == "HELLO"
    """,
    "anyio": """
        @pytest.fixture(params=["asyncio", "trio"])
        def anyio_backend(request):
            return request.param
        @pytest.fixture
        async def opened(note):
            yield note
        @pytest.mark.anyio
        async def test_load(opened):
            assert shop.load(opened) in ("hello", None)
        @pytest.mark.anyio
        async def test_shout(opened):
            assert shop.shout(opened) == "HELLO"
    """,
    "unittest of coroutines": """
        import tempfile
        import unittest
        class TestIt(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self):
                folder = tempfile.TemporaryDirectory()
                self.addCleanup(folder.cleanup)
                self.note = pathlib.Path(folder.name, "note.txt")
                self.note.write_text("hello")
            async def test_load(self):
                await asyncio.sleep(0)
                self.assertIn(shop.load(self.note), ("hello", None))
            async def test_shout(self):
                await asyncio.sleep(0)
                self.assertEqual(shop.shout(self.note), "HELLO")
    """,
}
HEAD = """
import asyncio
import pathlib
import pytest
import shop

made = []

@pytest.fixture
def note(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("hello")
    return path
"""
PLUGINS = {
    "pytest_asyncio": (
        "-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function"
    ),
    "anyio": ("-p", "anyio.pytest_plugin"),
}  # fmt: skip
SUBTESTS = importlib.util.find_spec("_pytest.subtests") is not None


@pytest.mark.parametrize("way", WAYS)
def test_what_fails_under_faults_is_found_and_what_holds_is_not(
    pytester: pytest.Pytester, way: str
) -> None:
    if way == "subtests" and not SUBTESTS:
        pytest.skip("pytest 8 has no fixture subtests of its own")
    pytester.makepyfile(shop=CODE, test_it=HEAD + textwrap.dedent(WAYS[way]))
    pytester.syspathinsert()
    result = pytester.runpytest(
        "-p", "no:ordeal", "-p", "no:randomly", "--chaos-explore=1", *PLUGINS.get(way, ()),
        "--resilience-report=out.json",
    )  # fmt: skip
    assert result.parseoutcomes().get("failed", 0) == 0
    assert result.parseoutcomes().get("errors", 0) == 0
    verdicts: dict[str, set[str]] = {}
    for cell in cells_of(pytester.path / "out.json"):
        verdicts.setdefault(cell["test"], set()).add(cell["verdict"])
    assert len(verdicts) >= 2
    for test, each in verdicts.items():
        is_bad = "shout" in test or "twice" in test
        assert each <= {"survived", "degraded", *(["failed"] if is_bad else [])}, test
        assert ("failed" in each) is is_bad, test


@pytest.mark.parametrize(
    "arguments", [(), ("--chaos-replay=open(tmp_path/note.txt)#1=permission_denied",)]
)
def test_a_test_with_subtests_fails_itself_and_none_of_them(
    pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    if not SUBTESTS:
        pytest.skip("pytest 8 has no fixture subtests of its own")
    test = """
        @pytest.mark.chaos_explore(probe=False, invariant=[nothing_failed])
        def test_it(note, subtests, failed):
            with subtests.test("one"):
                try:
                    note.read_text()
                except OSError:
                    failed.append(note)
    """
    head = """
        @pytest.fixture
        def failed():
            return []
        def nothing_failed(failed):
            assert not failed
    """
    pytester.makepyfile(shop="", test_it=HEAD + textwrap.dedent(head) + textwrap.dedent(test))
    pytester.syspathinsert()
    result = pytester.runpytest("-p", "no:ordeal", "-p", "no:randomly", *arguments)
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.no_fnmatch_line("SUBFAILED*")
