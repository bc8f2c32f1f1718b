"""The pictures of the README show what happens now."""

from __future__ import annotations

import html
import importlib.util
import re

from pathlib import Path
from types import ModuleType

import pytest


ROOT = Path(__file__).parents[1]
AGAIN = "it prints something else now: run python docs/pictures.py"


@pytest.fixture
def pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(text: str) -> list[str]:
    """Without what differs from run to run: ports, times, and where lines are broken."""
    text = re.sub(r"port=\d+", "port=0", text)
    text = re.sub(r"\d+\.\d+s", "0s", text)
    text = re.sub(r"={3,}", "===", text)
    return text.split()


def test_the_terminal_prints_what_its_picture_shows(pictures: ModuleType, tmp_path: Path) -> None:
    picture = (pictures.PICTURES / "terminal.svg").read_text(encoding="utf-8")
    drawn = re.findall(r"<text [^>]*?\by=\"([\d.]+)\"[^>]*>(.*?)</text>", picture)
    lines: dict[str, str] = {}
    for y, text in drawn:
        lines[y] = lines.get(y, "") + html.unescape(text).replace("\xa0", " ")
    shown = "\n".join(lines.values()).partition("$ ")[2]
    printed = pictures.run(tmp_path, colours=False)
    assert words(f"{pictures.COMMAND}\n{printed}") == words(shown), AGAIN
    assert (tmp_path / "chaos.html").stat().st_size > 10_000


def test_no_picture_asks_for_anything(pictures: ModuleType) -> None:
    picture = (pictures.PICTURES / "terminal.svg").read_text(encoding="utf-8")
    assert "url(http" not in picture
    assert "@import" not in picture
    for name in pictures.SIZES:
        assert (pictures.PICTURES / f"{name}.png").read_bytes().startswith(b"\x89PNG")
