"""A person is erased from a complete run: no byte of them is left, and the service knows nothing."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import run_command, write_csv
from running import serving

from eager_llm.data.demo_shop import demo_shop
from eager_llm.release.person_text import names_user

AWKWARD = [
    "jane@example.org",
    "O'Brien & <Sons>",
    'quote"quote',
    "back\\slash id",
    "Zoë Ünïcode 名前",
    "two words, comma",
]


@pytest.fixture(scope="module")
def run_of_awkward_users(tmp_path_factory):
    """A run whose report shows users, with a rejected row of each awkward one."""
    base = tmp_path_factory.mktemp("erasure")
    shop = demo_shop(seed=0, users=150)
    plain = sorted(shop.events["user_id"].unique())[: len(AWKWARD)]
    names = dict(zip(plain, AWKWARD, strict=True))
    for table in (shop.events, shop.intentions):
        table["user_id"] = table["user_id"].replace(names)
    source = write_csv(shop, base / "shop")
    with (source / "events.csv").open("a", encoding="utf-8") as log:
        for user in AWKWARD:
            log.write('"' + user.replace('"', '""') + '"\n')
    settings = ["data.bad_rows=0.5", "report.users=100", "index.workers=0", "tuning.epochs=1"]
    command = run_command(source, "shop", base / "runs", *settings)
    result = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    return base / "runs" / "shop"


def texts_of(file: Path) -> bytes:
    """The bytes of a file; of a Parquet file, its values."""
    content = file.read_bytes()
    if content[:4] == b"PAR1":
        return content + pd.read_parquet(file).to_json(force_ascii=False).encode()
    return content


def files_that_name(user: str, folder: Path) -> list[str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    is_named = [names_user(texts_of(file), user, is_text=False) for file in files]
    return [str(file) for file, named in zip(files, is_named, strict=True) if named]


@pytest.mark.timeout(600)
def test_no_byte_of_an_erased_user_is_left(run_of_awkward_users):
    folder = run_of_awkward_users
    for user in AWKWARD:
        assert files_that_name(user, folder), f"{user!r} has to be there before"
    with serving(type("Run", (), {"folder": folder})) as client:
        users = client.get("/users", params={"limit": 100}).json()["users"]
        assert set(AWKWARD) & set(users)
        command = [sys.executable, "-m", "eager_llm.cli.main", "erase", *AWKWARD]
        result = subprocess.run(
            [*command, "--in", str(folder)], capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stdout + result.stderr
        users = client.get("/users", params={"limit": 100}).json()["users"]
        assert not set(AWKWARD) & set(users), "a running service lists nobody who was erased"
        answer = client.post("/recommend", json={"user_id": AWKWARD[0]}).json()
        assert answer["reason"] == "unknown_user"
    for user in AWKWARD:
        assert files_that_name(user, folder) == []
