"""The service as others meet it: through a client generated from its OpenAPI, and as a page in a browser."""

import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

from e2e_checks import Shop

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "serving"))

from browser import chromium

# Its requirements and the lock's exclude one another, so it has an environment of its own, as its users do.
GENERATOR = "openapi-python-client==0.29.1"
BUILD = ROOT / "build"
PICTURE = BUILD / "e2e" / "page.png"


def generated_client_rows(address: str, shop: Shop) -> list[tuple[str, ...]]:
    """Generate a client from the running service's OpenAPI and ask everything through it; a row an answer."""
    home = BUILD / "openapi-client"
    python = home / "bin" / "python"
    if not (home / "bin" / "openapi-python-client").is_file():
        venv.create(home, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", GENERATOR], check=True)
    package = home / "client" / "eager_llm_client"
    command = [
        home / "bin" / "openapi-python-client",
        "generate",
        "--url",
        f"{address}/docs.json",
        "--overwrite",
    ]
    environment = {
        **os.environ,
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(package.parent),
    }
    package.parent.mkdir(exist_ok=True)
    generated = subprocess.run(
        [*command, "--meta", "none", "--output-path", package],
        env=environment,
        capture_output=True,
        text=True,
    )
    if generated.returncode or "WARNING" in generated.stdout + generated.stderr:
        return [
            (
                "client",
                "generated",
                "/docs.json",
                "",
                "",
                f"WRONG: {generated.stdout}{generated.stderr}"[:200],
            )
        ]
    rows = [("client", "generated", "/docs.json", "", "", GENERATOR)]
    command = [python, ROOT / "scripts" / "ask_with_client.py", address, shop.user, *shop.items[:3]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        what, endpoint, status, answer = json.loads(line)
        rows.append(("client", what, f"{endpoint}.sync_detailed", "", str(status), answer))
    if done.returncode:
        rows.append(
            (
                "client",
                "ended",
                "",
                "",
                str(done.returncode),
                f"WRONG: {done.stderr[-200:]}",
            )
        )
    return rows


def page_row(address: str, scratch: Path) -> tuple[str, ...]:
    """Open the page, let it recommend to somebody, and keep a picture of it."""
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with chromium(scratch / "browser") as page:
        page.open(f"{address}/ui")
        page.wait("document.querySelectorAll('.item').length > 0")
        shown = page.value("document.querySelectorAll('.column:first-child .item').length")
        page.picture(PICTURE)
        complaints = page.complaints
    took = f"{1000 * (time.monotonic() - start):.0f}"
    result = (
        f"WRONG: {complaints}"[:120]
        if complaints
        else f"{shown} items, {PICTURE.relative_to(ROOT)}"
    )
    return ("the page", "in Chromium", "/ui", took, "", result)
