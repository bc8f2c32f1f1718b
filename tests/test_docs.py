"""What the pages of `docs/` show is what happens.

A page is a story: its blocks are taken in their order.

- A block with a title is a file: `python title="test_shop.py"`. A later one takes its place.
- A block `console` is commands, each with what it prints. `UPDATE_DOCS=1 python -m pytest
  tests/test_docs.py` writes down what they print now.
- Python that `<!-- not run: why -->` stands above is not run, but compiled, and its imports and
  experiments are checked. So are those of all other Python.
- Files without a title, and what a shell is to do elsewhere (`sh`), are not run, but read: the
  flags of pytest that stand there are known.
- `<!-- plugins: asyncio -->` loads other plugins of pytest for the page, `<!-- needs: django -->`
  skips it where a library is missing.

The pages of the tutorial are one story.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import socket
import sys
import tomllib

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Loaded once here, not again for every run of a page.
import pytest
import yaml

import pytest_resilience.interceptors.children.interceptor
import pytest_resilience.interceptors.databases.sqlite
import pytest_resilience.native.connects
import pytest_resilience.native.redirects
import pytest_resilience.plugin.matrix.protocol
import pytest_resilience.proxy.proxy

from pytest_resilience import ChaosExperiment
from pytest_resilience.chaos.types.catalog import ChaosType
from pytest_resilience.chaos.types.network import NETWORK_FAILURE
from pytest_resilience.chaos.types.network import NETWORK_LATENCY
from pytest_resilience.chaos.types.schema import TypeSchema
from tests.name_server import without_a_name_server


for _name in pytest_resilience.__all__:
    getattr(pytest_resilience, _name)  # loads its module: once, as above

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
UPDATE = os.environ.get("UPDATE_DOCS") == "1"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
TUTORIAL = [page for page in PAGES if page.startswith("tutorial/")]
COLUMNS = 100
LONGEST = 60  # lines of what commands print: nobody reads more

BLOCK = re.compile(
    r"(?P<above><!-- not run: (?P<why>[^\n]+) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
COMES_WITH_IT = frozenset({"pytest", "pytest_resilience", "requests", "responses", "urllib3"})
DISTRIBUTIONS = {"botocore": "boto3", "grpc": "grpcio"}  # by the module that they bring
# Languages of what is not run here.
SHOWN = frozenset({"ini", "json", "mermaid", "sh", "text", "toml", "yaml"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: what stands after the fence.
        title: of the file that it is, if it is one.
        text: without the fences, and without the indentation that they have.
        not_run: why it is not run; empty if it is.
        line: of its opening fence.
        own_types: chaos types that the page adds.
    """

    language: str
    title: str
    text: str
    not_run: str
    line: int
    own_types: frozenset[str]


def blocks(page: str) -> Iterator[Block]:
    source = (DOCS / page).read_text(encoding="utf-8")
    own_types = frozenset(re.findall(r'NewChaosType\("(\w+)"', source))
    for match in BLOCK.finditer(source):
        indent = match["indent"]
        yield Block(
            language=match["language"],
            title=match["title"] or "",
            text=re.sub(rf"(?m)^{indent}", "", match["text"]),
            not_run=match["why"] or "",
            line=source.count("\n", 0, match.start("language")) + 1,
            own_types=own_types,
        )


def said(page: str, name: str) -> list[str]:
    """The words of a comment `<!-- name: … -->` at the top of a page."""
    source = (DOCS / page).read_text(encoding="utf-8")
    match = re.search(rf"<!-- {name}: (.*?) -->", source)
    return match[1].split(", ") if match else []


def write(block: Block) -> None:
    path = Path(block.title)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))])
def test_a_page_tells_what_happens(
    page: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in said(page, "needs"):
        pytest.importorskip(library)
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p resilience")  # with pytest's cache, as readers have it
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file may change within its second
    monkeypatch.setattr(socket, "getaddrinfo", without_a_name_server(socket.getaddrinfo))
    earlier = TUTORIAL[: TUTORIAL.index(page)] if page in TUTORIAL else []
    for each in earlier:
        for block in blocks(each):
            if block.title and not block.not_run:
                write(block)
    plugins = [word for name in said(page, "plugins") for word in ("-p", name)]
    found: list[tuple[Block, str]] = []
    for block in blocks(page):
        if block.not_run:
            continue
        if block.title:
            write(block)
        elif block.language in SHOWN:
            continue
        elif block.language == "console":
            found.append((block, run(pytester, block.text, plugins)))
            assert found[-1][1].count("\n") <= LONGEST, found[-1][1]
        else:
            pytest.fail(f"{page}:{block.line}: nobody runs this {block.language}")
    if UPDATE:
        update(page, found)
        return
    for block, now in found:
        assert same_everywhere(block.text) == same_everywhere(now), f"{page}:{block.line}"


def run(pytester: pytest.Pytester, text: str, plugins: list[str]) -> str:
    """The commands of a block, and what they print."""
    lines = []
    for command in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
        program, *args = shlex.split(command)
        if program == "pytest":
            result = pytester.runpytest_inprocess(*plugins, *args)
        else:
            assert program == "python", command
            result = pytester.run(sys.executable, *args)
        lines += [f"$ {command}", *result.outlines, *result.errlines, ""]
    text = "\n".join(lines).strip().replace(str(pytester.path), "…").replace(str(ROOT), "…")
    return re.sub(r"(?<=[\s(])/\S*/(?:site-packages|pytest-of-\w+/pytest-\d+)/", "…/", text) + "\n"


def same_everywhere(text: str) -> list[str]:
    """Without what differs from run to run: times, ports, and how wide the terminal is."""
    text = re.sub(r"delayed [\d.]+m?s", "delayed 0s", text)
    text = re.sub(r"\bin \d+\.\d+s", "in 0s", text)
    text = re.sub(r"\d+\.\d+ ?s\b", "0s", text)
    text = re.sub(r"={3,}", "===", text)
    text = re.sub(r" +\[ *(\d+)%\]", r" [\1%]", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:80", text)
    text = re.sub(r"port=\d+", "port=80", text)
    text = re.sub(r"0x[0-9a-f]{6,}", "0x0", text)
    text = re.sub(r"(?m)^((?:FAILED|ERROR) .{60}).*$", r"\1", text)
    return [line.rstrip() for line in text.strip().splitlines()]


def update(page: str, found: list[tuple[Block, str]]) -> None:
    path = DOCS / page
    lines = path.read_text(encoding="utf-8").splitlines()
    for block, now in reversed(found):
        if same_everywhere(block.text) != same_everywhere(now):
            end = block.line + block.text.count("\n")
            lines[block.line : end] = now.splitlines()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


PYTHON = [
    pytest.param(block, id=f"{page}:{block.line}")
    for page in PAGES
    for block in blocks(page)
    if block.language == "python"
]


@pytest.mark.parametrize("block", PYTHON)
def test_python_that_is_shown_can_be_meant(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytest_resilience"):
            module = importlib.import_module(node.module or "")
            assert [each.name for each in node.names if not hasattr(module, each.name)] == []
        elif isinstance(node, ast.Call):
            check_experiment(node, block.own_types)


def imported_in(blocks_of_python: list[Block]) -> set[str]:
    """The libraries, by their top module: neither Python's own, nor files of the story."""
    found = set()
    for block in blocks_of_python:
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Import):
                found |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - sys.stdlib_module_names - COMES_WITH_IT


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))])
def test_a_page_says_how_to_install_what_it_imports(page: str) -> None:
    story = TUTORIAL if page in TUTORIAL else [page]
    files = {Path(block.title).stem for each in story for block in blocks(each)}
    imported = imported_in([block for block in blocks(page) if block.language == "python"]) - files
    if "pytest_asyncio.plugin" in said(page, "plugins"):
        imported.add("pytest_asyncio")
    installed = re.findall(r"pip install ([^`\n]+)", (DOCS / page).read_text(encoding="utf-8"))
    names = {each.strip(",").replace("-", "_") for each in " ".join(installed).split()}
    assert {DISTRIBUTIONS.get(each, each) for each in imported} - names == set()


def check_experiment(call: ast.Call, own_types: frozenset[str]) -> None:
    """Make the experiment that a marker or a fixture asks for, as far as it is written out."""
    name = ast.unparse(call.func)
    method = name.rpartition(".")[2]
    parameters = {}
    for each in call.keywords:
        try:
            parameters[each.arg or "**"] = ast.literal_eval(each.value)
        except ValueError:
            return  # known only when it runs
    for plugins_own in ("must_fire", "include_setup"):
        parameters.pop(plugins_own, None)
    words = [str(each.value) for each in call.args if isinstance(each, ast.Constant)]
    if name == "pytest.mark.chaos" and words and words[0] not in own_types:
        kind = words[0]
    elif method in {kind.value for kind in ChaosType} and name != method:
        kind = method
        if kind == ChaosType.SERVICE_FAILURE.value:
            parameters["target_services"] = words
    else:
        return
    ChaosExperiment(parameters.pop("name", "shown"), kind, **parameters)


@pytest.mark.parametrize("kind", [NETWORK_LATENCY, NETWORK_FAILURE])
def test_every_mode_of_the_network_is_explained(kind: TypeSchema) -> None:
    [mode] = [each for each in kind.parameters if each.name == "mode"]
    rows = re.findall(
        r"^\| (`.*?) \|", (DOCS / "explanation" / "faults.md").read_text(), re.MULTILINE
    )
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(mode.unit.split(", ")) - explained == set()


def test_every_type_is_explained() -> None:
    page = (DOCS / "explanation" / "faults.md").read_text(encoding="utf-8")
    assert [kind.value for kind in ChaosType if f"`{kind.value}`" not in page] == []


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert [page for page in PAGES if f" {page}\n" not in nav] == []


def test_files_of_data_that_are_shown_can_be_read() -> None:
    readers: dict[str, Callable[[str], Any]] = {
        "toml": tomllib.loads,
        "yaml": yaml.safe_load,
        "json": json.loads,
    }
    for page in PAGES:
        for block in blocks(page):
            if block.language in readers:
                assert readers[block.language](block.text), (page, block.line)


def test_flags_that_are_shown_are_there(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest("-p", "xdist", "-p", "pytest_cov", "--help").stdout.str()
    wanted = {
        (page, flag)
        for page in PAGES
        for block in blocks(page)
        if block.language in {"sh", "yaml", "console"}
        for command in re.findall(r"\bpytest (?!-resilience).*", block.text)
        for flag in re.findall(r"(?<!\S)--[a-z]+(?:-[a-z]+)*", command)
        if "python -m pytest_resilience" not in command
    }
    assert {each for each in wanted if not re.search(rf"{each[1]}[ =,\n]", shown)} == set()
