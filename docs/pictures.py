"""Makes the pictures of the README and the site: `python docs/pictures.py`.

They show a real run and a real report. `tests/test_pictures.py` fails when the run prints something
else than its picture. Needs the extra `docs`, and chromium for the report.
"""

from __future__ import annotations

import errno
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile

from pathlib import Path


__all__ = ["COMMAND", "FILES", "PICTURES", "run"]

PICTURES = Path(__file__).parent / "pictures"
COLUMNS = 88
COMMAND = (
    "pytest --chaos-profile=ci --chaos-matrix --resilience-gate=90 --resilience-report=chaos.html"
)
SIZES = {"report-light": ("light", 1000, 560), "report-dark": ("dark", 1000, 560)}

FILES = {
    "pyproject.toml": """\
[tool.pytest_resilience.profiles.ci]
seed = 7

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "first connection refused"
chaos_type = "network_failure"
mode = "refuse"
first = 1

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "first response reset"
chaos_type = "network_failure"
mode = "reset"
first = 1

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "first response is a 503"
chaos_type = "network_failure"
mode = "status"
first = 1

[[tool.pytest_resilience.profiles.ci.experiments]]
name = "slow network"
chaos_type = "network_latency"
delay = "20ms"
""",
    "shop.py": """\
import requests
import urllib3
from requests.adapters import HTTPAdapter

patient = requests.Session()
patient.mount("http://", HTTPAdapter(max_retries=urllib3.Retry(3, status_forcelist=[503])))


def price(url, session=patient):
    return session.get(url, timeout=5).json()["price"]
""",
    "test_shop.py": """\
import pytest
import requests

import shop


@pytest.fixture
def tea(stub_server):
    return stub_server.respond("/tea", json={"price": 4}).url


def test_patient_client(tea):
    assert shop.price(tea) == 4


def test_hasty_client(tea):
    assert shop.price(tea, requests) == 4


def test_no_network():
    assert callable(shop.price)
""",
}


def run(folder: Path, *, colours: bool) -> str:
    """What the command prints on a terminal, where those files are. It leaves the report there."""
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "COLUMNS": str(COLUMNS),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for name in ("CI", "BUILD_NUMBER", "GITHUB_STEP_SUMMARY"):
        environment.pop(name, None)
    plugins = ("-p", "resilience", "-p", "no:cacheprovider")
    colour = f"--color={'yes' if colours else 'no'}"
    args = (sys.executable, "-m", *COMMAND.split(), *plugins, colour, "--no-header")
    ours, its = pty.openpty()
    with subprocess.Popen(  # noqa: S603  # this Python, and what stands above
        args, cwd=folder, env=environment, stdin=its, stdout=its, stderr=subprocess.STDOUT
    ):
        os.close(its)
        printed = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    # Progress, which is taken away again, stands between keeping the place and going back to it.
    shown = re.sub("\x1b7.*?\x1b8", "", printed.decode(), flags=re.DOTALL)
    lines = shown.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rpartition("\r")[2].rstrip() for line in lines)


def _read(terminal: int) -> bytes:
    """What is printed next; nothing when nobody has the terminal open any more."""
    try:
        return os.read(terminal, 65536)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def draw_terminal(printed: str) -> str:
    """An SVG of a terminal in which the command was run. It asks nobody for fonts."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(Text.from_ansi(f"$ {COMMAND}\n{printed.rstrip()}"))
    drawn = console.export_svg(title="pytest", unique_id="terminal")
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"


def draw_page(page: Path, picture: Path, scheme: str, width: int, height: int) -> None:
    """A picture of the report in a browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no chromium is installed, to make a picture of the report")
    with tempfile.TemporaryDirectory() as profile:
        flags = (
            *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"),
            *(f"--user-data-dir={profile}", f"--window-size={width},{height}"),
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            f"--screenshot={picture}",
        )
        subprocess.run(  # noqa: S603  # the browser that was found
            (browser, *flags, page.as_uri()), check=True, capture_output=True, timeout=120
        )


def main() -> None:
    """Make all of them."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        printed = run(Path(folder), colours=True)
        (PICTURES / "terminal.svg").write_text(draw_terminal(printed), encoding="utf-8")
        for name, (scheme, width, height) in SIZES.items():
            page = Path(folder) / "chaos.html"
            draw_page(page, PICTURES / f"{name}.png", scheme, width, height)


if __name__ == "__main__":
    main()
