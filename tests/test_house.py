"""Who may import whom, and how large things may be: read from the source.

An import counts wherever in a module it stands.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import sys

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pytest_resilience


PACKAGE = "pytest_resilience"

GROUND = frozenset(
    {
        "clock",
        "socket_filters",
        "errors",
        "events",
        "locks",
        "patching",
        "poll_objects",
        "proc",
        "seeds",
        "stacks",
    }
)
BELOW = {
    "plugin": frozenset({"assertions", "chaos", "chaostoolkit", "diagnosis", "exploration"})
    | {"monkey", "patterns", "proxy", "report", "runtime", "virtual_time"}
    | GROUND,
    "virtual_time": GROUND,
    "exploration": frozenset({"report", "chaos"}) | GROUND,
    "report": frozenset({"chaos"}) | GROUND,
    "__main__": frozenset({"report", "chaos"}) | GROUND,
    "toolkit_actions": frozenset({"runtime", "chaos"}) | GROUND,
    "chaostoolkit": frozenset({"monkey", "chaos"}) | GROUND,
    "startup": frozenset({"interceptors"}) | GROUND,
    "runtime": frozenset({"native", "interceptors", "stress", "monkey", "chaos"}) | GROUND,
    "native": frozenset({"interceptors", "proxy", "chaos"}) | GROUND,
    "assertions": frozenset({"chaos", "patterns"}) | GROUND,
    "interceptors": frozenset({"chaos"}) | GROUND,
    "stress": frozenset({"chaos"}) | GROUND,
    "proxy": frozenset({"diagnosis", "chaos"}) | GROUND,
    "diagnosis": frozenset({"chaos"}) | GROUND,
    "monkey": frozenset({"chaos"}) | GROUND,
    "chaos": GROUND,
    "http_middleware": frozenset({"patterns"}) | GROUND,
    "patterns": GROUND,
} | dict.fromkeys(GROUND, GROUND)
# What knows nothing of each other, and what each may import of the others all the same.
APART: dict[str, frozenset[str]] = {
    "interceptors.children": frozenset(),
    "interceptors.crash_recorder": frozenset({"interceptors.sqlite_vfs"}),
    "interceptors.databases": frozenset(),
    "interceptors.files": frozenset(),
    "interceptors.http_mocks": frozenset({"interceptors.sockets"}),
    "interceptors.sockets": frozenset(),
    "interceptors.sqlite_vfs": frozenset(),
}

# Folders of one purpose, which nobody imports but these, and those within.
ONLY_FOR: dict[str, frozenset[str]] = {
    "proxy.toxiproxy_api": frozenset({"proxy", "proxy.__main__"}),  # for who asks for the control
}

HEAVY = frozenset({"asyncio", "psutil", "requests", "responses", "sqlite3", "ssl"})
# Modules about nothing else, which are themselves imported only by those who need them.
ABOUT: dict[str, frozenset[str]] = {
    "plugin.fixtures.responses": frozenset({"responses"}),
    "plugin.fixtures.databases": frozenset({"sqlite3"}),
    "interceptors.sockets.delaying_protocol": frozenset({"asyncio"}),
    "interceptors.databases.psycopg2": frozenset({"psycopg2"}),
    "interceptors.databases.sqlite": frozenset({"sqlite3"}),
}

CLIENTS = frozenset({"requests", "responses", "psutil"})
PYTEST = frozenset({"pytest", "_pytest"})
FOREIGN = {"plugin": PYTEST | {"pluggy"}}  # what else than the standard library, at module level

# Tests that mirror no folder of the package.
OF_NO_MODULE = frozenset({"end_to_end", "typing"})

# The most lines of a function and a module, and attributes of a class: its fields, its slots and
# what `__init__` sets. A module of fewer lines than LEAST is read by more than one other.
FUNCTION, MODULE, RECORD, LEAST = 40, 500, 10, 60

# Configurations that users write, where one table says all about one thing.
EXEMPT = {
    "chaos.profile Profile has attributes",  # [tool.pytest_resilience.profiles.NAME]
    "patterns.circuit_breaker.config CircuitBreakerConfig has attributes",
    "patterns.retry.config RetryConfig has attributes",
    "plugin.fixtures.patterns BreakerFields has attributes",  # the same, as keywords
    "plugin.fixtures.patterns RetryFields has attributes",
}
# What is still too large, and how large: nothing may grow, nor stay here when it has shrunk.
NOT_YET: dict[str, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import.

    Attributes:
        by: the importing module, below the package: `chaos.engine`, `` for the package.
        of: what is imported; below the package if `own`.
        own: whether it belongs to the package.
        line: where it stands.
        moment: "import", "call" (inside a function) or "typing" (under TYPE_CHECKING).
    """

    by: str
    of: str
    own: bool
    line: int
    moment: str

    def __str__(self) -> str:
        of = f"{PACKAGE}.{self.of}".rstrip(".") if self.own else self.of
        return f"{self.by or '__init__'}:{self.line} imports {of}"


def sources(root: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


@functools.cache
def imports(root: Path) -> list[Import]:
    modules = sources(root)
    found = []
    for name, path in modules.items():
        is_package = path.name == "__init__.py"
        for node, moment in _import_nodes(parsed(path)):
            for dotted in _imported(node, name, is_package, modules):
                head, _, rest = dotted.partition(".")
                own = head == PACKAGE
                of = rest if own else dotted
                found.append(Import(by=name, of=of, own=own, line=node.lineno, moment=moment))
    return found


def _import_nodes(tree: ast.AST) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """All imports, as they stand, each with its moment."""
    todo: list[tuple[ast.AST, str]] = [(tree, "import")]
    while todo:
        node, moment = todo.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, moment
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            moment = "call"
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += [(each, moment) for each in reversed(node.orelse)]
            todo += [(each, "typing") for each in reversed(node.body)]
            continue
        elif isinstance(node, ast.expr):
            continue  # no statement is in there
        todo += [(each, moment) for each in reversed(list(ast.iter_child_nodes(node)))]


def _imported(
    node: ast.Import | ast.ImportFrom, by: str, is_package: bool, modules: dict[str, Path]
) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        above = [PACKAGE, *filter(None, by.split("."))]
        above = above[: len(above) - node.level + is_package]
        base = ".".join([*above, *filter(None, [base])])
    if base.partition(".")[0] != PACKAGE:
        return [base]
    below = base.partition(".")[2]
    # `from package import name` reaches for the module of that name, where there is one.
    return [
        f"{base}.{alias.name}" if f"{below}.{alias.name}".lstrip(".") in modules else base
        for alias in node.names
    ]


def floor(module: str) -> str:
    return module.partition(".")[0]


def problems(root: Path) -> list[str]:
    found = imports(root)
    return [
        *_upwards(found),
        *_sideways(found),
        *_only_for(found),
        *_foreign(found),
        *_heavy(found),
        *_cycles(found),
        *_unreadable(root),
        *_shadows(root),
    ]


def _upwards(found: list[Import]) -> Iterator[str]:
    for each in found:
        if not each.own or not each.by:
            continue  # the package itself names what its floors hold
        if not each.of and each.moment == "typing":
            continue  # in an annotation, what a user is given is named as users name it
        by, of = floor(each.by), floor(each.of)
        if by not in BELOW:
            yield f"{each}, from a floor the house does not have"
        elif by != of and of not in BELOW[by]:
            yield f"{each}, which is not below it"


def _sideways(found: list[Import]) -> Iterator[str]:
    for each in found:
        by, of = (".".join(name.split(".")[:2]) for name in (each.by, each.of))
        if by in APART and of in APART and of not in {by, *APART[by]}:
            yield f"{each}, which is beside it"


def _only_for(found: list[Import]) -> Iterator[str]:
    for each in found:
        for folder, readers in ONLY_FOR.items():
            inside = each.by == folder or each.by.startswith(f"{folder}.")
            if each.own and f"{each.of}.".startswith(f"{folder}.") and not inside:
                if each.by not in readers:
                    yield f"{each}, which is only for {', '.join(sorted(readers))}"
                elif each.moment == "import" and each.by != "proxy.__main__":
                    yield f"{each} before it is needed"


def _foreign(found: list[Import]) -> Iterator[str]:
    for each in found:
        name, by = floor(each.of), floor(each.by)
        if each.own:
            continue
        if name in PYTEST and by != "plugin":
            yield f"{each}, and only plugin/ may"
        if name in CLIENTS and by in {"", "chaos", "patterns", *GROUND}:
            yield f"{each}, and it has to work without"
        expected = FOREIGN.get(by, frozenset()) | ABOUT.get(each.by, frozenset())
        if each.moment == "import" and name not in sys.stdlib_module_names | expected:
            yield f"{each}, which may be missing, before it is needed"


def _heavy(found: list[Import]) -> Iterator[str]:
    at_import = [each for each in found if each.moment == "import"]
    loads: dict[str, list[Import]] = {}
    for each in at_import:
        if not each.own and floor(each.of) in HEAVY:
            loads.setdefault(each.by, []).append(each)
    for by, theirs in loads.items():
        for each in theirs:
            if floor(each.of) not in ABOUT.get(by, frozenset()):
                yield f"{each} before it is needed"
    for each in at_import:
        if each.own and each.of in ABOUT and each.by not in ABOUT:
            yield f"{each}, about {', '.join(ABOUT[each.of])}, too early"


def _cycles(found: list[Import]) -> Iterator[str]:
    graph: dict[str, set[str]] = {}
    for each in found:
        if each.own:
            graph.setdefault(each.by, set()).add(each.of)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"cycle: {' -> '.join(name or PACKAGE for name in error.args[1])}"


def _unreadable(root: Path) -> Iterator[str]:
    for name, path in sources(root).items():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and name:
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if called in {"import_module", "__import__"}:
                    yield f"{name}:{node.lineno} imports by {called}, which nobody can check"


def _shadows(root: Path) -> Iterator[str]:
    """Names in a package that hide a module of it until that is imported, and then are hidden."""
    modules = sources(root)
    for name, path in modules.items():
        if path.name != "__init__.py":
            continue
        for bound, line in _bound(parsed(path), name, modules):
            if f"{name}.{bound}".lstrip(".") in modules:
                yield f"{name or '__init__'}:{line} has the name of a module, {bound}"


def _bound(node: ast.AST, package: str, modules: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """The names that are bound at module level, but for modules bound to their own."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name, node.lineno
    elif isinstance(node, ast.ImportFrom):
        imported = _imported(node, package, True, modules)
        for bound in (alias.asname or alias.name for alias in node.names):
            if ".".join(filter(None, [PACKAGE, package, bound])) not in imported:
                yield bound, node.lineno
    elif isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], node.lineno
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id, node.lineno
    else:
        for child in ast.iter_child_nodes(node):
            yield from _bound(child, package, modules)


def sizes(root: Path) -> dict[str, int]:
    """What is beyond a ceiling, with its number."""
    readers: dict[str, set[str]] = {}
    for each in imports(root):
        if each.own:
            readers.setdefault(each.of, set()).add(each.by)
    found = {}
    for name, path in sources(root).items():
        lines = len(path.read_text().splitlines())
        if lines > MODULE:
            found[f"{name} has lines"] = lines
        alone = len(readers.get(name, ())) < 2 and path.stem not in {"__init__", "__main__"}
        if lines < LEAST and alone:
            found[f"{name} has one reader and lines"] = lines
        for node in ast.walk(parsed(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION:
                    found[f"{name} {node.name} has lines"] = lines
            elif isinstance(node, ast.ClassDef) and (more := len(_attributes(node))) > RECORD:
                found[f"{name} {node.name} has attributes"] = more
    return found


def _attributes(node: ast.ClassDef) -> set[str]:
    found = set()
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and "ClassVar" not in ast.unparse(each.annotation):
            found.add(ast.unparse(each.target))
        elif isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__slots__":
            slots = ast.literal_eval(each.value)
            found |= {slots} if isinstance(slots, str) else set(slots) - {"__weakref__"}
        elif isinstance(each, ast.FunctionDef) and each.name == "__init__":
            found |= {
                target.attr
                for target in ast.walk(each)
                if isinstance(target, ast.Attribute)
                and isinstance(target.ctx, ast.Store)
                and ast.unparse(target.value) == "self"
            }
    return found


def test_the_house_stands() -> None:
    assert problems(Path(pytest_resilience.__path__[0])) == []


def test_nothing_is_too_large() -> None:
    found = sizes(Path(pytest_resilience.__path__[0]))
    grown = {each: size for each, size in found.items() if size > NOT_YET.get(each, 0)}
    assert grown.keys() - EXEMPT == set(), "too large"
    assert (NOT_YET.keys() | EXEMPT) - found.keys() == set(), "small enough: take it out"


def test_the_walk_sees_the_whole_package() -> None:
    root = Path(pytest_resilience.__path__[0])
    assert set(sources(root)) >= {
        "",
        "errors",
        "chaos",
        "chaos.engine",
        "plugin",
        "interceptors.sockets.interceptor",
    }
    seen = {(each.by, each.of, each.moment) for each in imports(root)}
    assert ("clock", "asyncio", "call") in seen
    assert ("plugin", "plugin.newhooks", "call") in seen
    assert ("plugin", "runtime", "typing") in seen
    assert ("plugin", "plugin.starting", "call") in seen
    assert ("chaos.engine", "chaos.active_experiment", "import") in seen


def strays(root: Path, tests: Path) -> list[str]:
    """Test modules in a folder of the package that have no name of a module there, nor begin so."""
    names: dict[str, set[str]] = {}
    for path in root.rglob("*.py"):
        names.setdefault(str(path.parent.relative_to(root)), set()).add(path.stem.strip("_"))
    found = []
    for path in sorted(tests.rglob("test_*.py")):
        folder, name = path.parent.relative_to(tests), path.stem.removeprefix("test_")
        if folder.parts and folder.parts[0] not in OF_NO_MODULE:
            beside = names.get(str(folder), set())
            if not any(f"{name}_".startswith(f"{each}_") for each in beside):
                found.append(str(path.relative_to(tests)))
    return found


def test_tests_stand_beside_what_they_test() -> None:
    assert strays(Path(pytest_resilience.__file__).parent, Path(__file__).parent) == []


def test_a_test_of_what_is_there_no_more_would_be_seen(tmp_path: Path) -> None:
    root, tests = house(tmp_path / "package", chaos__engine=""), tmp_path / "tests"
    for name in ("chaos/engine", "chaos/engine_in_forks", "chaos/engines", "typing/keywords"):
        path = tests / Path(name).with_name(f"test_{Path(name).name}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert strays(root, tests) == ["chaos/test_engines.py"]


SOCKETS = "pytest_resilience.interceptors.sockets"
TOXIPROXY_API = "pytest_resilience.proxy.toxiproxy_api"


def house(root: Path, **files: str) -> Path:
    for name, source in {"__init__": "", **files}.items():
        *folders, module = name.replace("__init__", "\0").split("__")
        path = root.joinpath(*filter(None, folders), module.replace("\0", "__init__") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


@pytest.mark.parametrize(
    ("files", "complaints"),
    [
        ({"chaos__a": "import json", "errors": "import ast", "plugin__a": "import pytest"}, []),
        (
            {"chaos__a": "from pytest_resilience.patterns import breaker"},
            ["chaos.a:1 imports pytest_resilience.patterns, which is not below it"],
        ),
        (
            {"patterns__a": "def f():\n  import pytest_resilience.chaos.engine"},
            ["patterns.a:2 imports pytest_resilience.chaos.engine, which is not below it"],
        ),
        (
            {"clock": "if TYPE_CHECKING:\n  from .chaos.engine import Engine"},
            ["clock:2 imports pytest_resilience.chaos.engine, which is not below it"],
        ),
        (
            {"report__a": "from ..plugin import options", "plugin__options": ""},
            ["report.a:1 imports pytest_resilience.plugin.options, which is not below it"],
        ),
        (
            {"interceptors__a": "from pytest_resilience import CircuitBreaker"},
            ["interceptors.a:1 imports pytest_resilience, which is not below it"],
        ),
        ({"interceptors__http_mocks__a": "import pytest_resilience.interceptors.sockets.a"}, []),
        (
            {"interceptors__files__a": "from ..sockets import a", "interceptors__sockets__a": ""},
            [f"interceptors.files.a:1 imports {SOCKETS}.a, which is beside it"],
        ),
        (
            {
                "proxy__a": "def f():\n  from .toxiproxy_api import b",
                "proxy__toxiproxy_api__b": "",
                "proxy__toxiproxy_api__c": "from . import b",
            },
            [
                f"proxy.a:2 imports {TOXIPROXY_API}.b, which is only for proxy, proxy.__main__",
            ],
        ),
        (
            {"tools__a": "import pytest_resilience.errors"},
            ["tools.a:1 imports pytest_resilience.errors, from a floor the house does not have"],
        ),
        (
            {"assertions__a": "def f():\n  from _pytest.outcomes import fail"},
            ["assertions.a:2 imports _pytest.outcomes, and only plugin/ may"],
        ),
        (
            {"patterns__a": "async def f():\n  import requests.adapters"},
            ["patterns.a:2 imports requests.adapters, and it has to work without"],
        ),
        (
            {"interceptors__a": "import httpx"},
            ["interceptors.a:1 imports httpx, which may be missing, before it is needed"],
        ),
        ({"interceptors__a": "class A:\n  def f(self):\n    import httpx, requests, ssl"}, []),
        ({"interceptors__a": "if TYPE_CHECKING:\n  import ssl"}, []),
        (
            {"interceptors__a": "if TYPE_CHECKING:\n  pass\nelse:\n  import ssl"},
            ["interceptors.a:4 imports ssl before it is needed"],
        ),
        (
            {"patterns__a": "try:\n  from asyncio import sleep\nexcept ImportError:\n  pass"},
            ["patterns.a:2 imports asyncio before it is needed"],
        ),
        (
            {
                "chaos__a": "from pytest_resilience.chaos import b",
                "chaos__b": "def f():\n  from . import a",
            },
            ["cycle: chaos.a -> chaos.b -> chaos.a"],
        ),
        (
            {"chaos__a": "import importlib\nimportlib.import_module('pytest')"},
            ["chaos.a:2 imports by import_module, which nobody can check"],
        ),
        (
            {"plugin____init__": "def thing():\n  pass", "plugin__thing": ""},
            ["plugin:1 has the name of a module, thing"],
        ),
        (
            {
                "plugin____init__": "from . import a\nfrom .a import b\nif a:\n  c = 1",
                **dict.fromkeys(["plugin__a", "plugin__b", "plugin__c"], ""),
            },
            [
                "plugin:2 has the name of a module, b",
                "plugin:4 has the name of a module, c",
            ],
        ),
    ],
)
def test_the_house_would_fall(tmp_path: Path, files: dict[str, str], complaints: list[str]) -> None:
    def turned(complaint: str) -> str:  # a cycle begins anywhere
        return " ".join(sorted(set(complaint.split()))) if "cycle" in complaint else complaint

    found = problems(house(tmp_path, **files))
    assert list(map(turned, found)) == list(map(turned, complaints))


def test_a_module_about_asyncio_is_not_imported_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ABOUT, "patterns.tasks", frozenset({"asyncio"}))
    root = house(
        tmp_path,
        patterns__tasks="import asyncio",
        patterns__retry="def f():\n  from pytest_resilience.patterns import tasks",
        patterns__breaker="from pytest_resilience.patterns import tasks",
    )
    assert problems(root) == [
        "patterns.breaker:1 imports pytest_resilience.patterns.tasks, about asyncio, too early"
    ]


def test_a_large_thing_would_be_seen(tmp_path: Path) -> None:
    fields = "".join(f"  f{each}: int\n" for each in range(9))
    made = "".join(f"    self.a{each} = 1\n" for each in range(9))
    root = house(
        tmp_path,
        chaos__long="\n" * 501,
        chaos__function="def f():\n" + "  pass\n" * 39 + "\n" * 60,
        chaos__longer="def f():\n" + "  pass\n" * 40 + "\n" * 60,
        chaos__record=f"class A:\n{fields}  __slots__ = ('f0', 'g')\n  k: ClassVar[int]"
        + "\n" * 60,
        chaos__wide=f"class A:\n{fields}  __slots__ = 'g', 'h'\n" + "\n" * 60,
        chaos__made=f"class A:\n  def __init__(self):\n{made}    self.x, self.y = 1, 2\n"
        + "\n" * 60,
        chaos__read_once="",
        chaos__read_twice="",
        patterns__a="\n" * 60,
        chaos__a="from . import read_once, read_twice" + "\n" * 60,
        chaos__b="from . import read_twice" + "\n" * 60,
    )
    assert sizes(root) == {
        "chaos.long has lines": 501,
        "chaos.longer f has lines": 41,
        "chaos.made A has attributes": 11,
        "chaos.read_once has one reader and lines": 0,
        "chaos.wide A has attributes": 11,
    }
