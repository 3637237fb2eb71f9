"""Import, validation, materialisation and history retrieval of made-up logs, beside pandas doing the same.

python benchmarks/ingestion.py [--quick]

Online reads and pushes are single calls, one after the other. Every measured part is a process of its own; its peak memory is VmHWM, with its largest child's added.
Event logs are CSV: a tenth as many users as events, ids drawn so that few are popular.
"""

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.postgres import PASSWORD, USER, postgres, program  # noqa: E402

MAX_HISTORY, ASKED_USERS, READS = 20, 100_000, 2000
MEMORY = "INGESTION_MEMORY_GB"


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1e5 events only")
    parser.add_argument(
        "--events", type=int, nargs="*", help="sizes of the logs; default: 1e5, 1e6, 1e7"
    )
    parser.add_argument(
        "--largest-materialised",
        type=int,
        default=1_000_000,
        help="events up to which all users go online",
    )
    parser.add_argument(
        "--only",
        nargs="*",
        help="parts, such as: import validate; for logs that pandas cannot hold; default: all",
    )
    parser.add_argument(
        "--memory-gb", default="2", help="data.memory_gb; a hundred million events want 8"
    )
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        part(asked.part[0], Path(asked.part[1]))
        return
    from benchmarks.reporting import finish, machine, show

    os.environ[MEMORY] = asked.memory_gb  # for the processes of the parts
    sizes = asked.events or ([100_000] if asked.quick else [100_000, 1_000_000, 10_000_000])
    rows, figures = [], {}
    print(machine(), flush=True)
    for events in sizes:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), events, asked.largest_materialised, asked.only)
        rows += [[f"{events:,}", name, *row] for name, row in found.items()]
        earlier = figures.get("online_p99_ms")
        figures = summary(events, found)
        # Where the largest log is not brought online whole, the one before it was.
        figures["online_p99_ms"] = figures["online_p99_ms"] or earlier
    show("Made-up logs", ["events", "what", "seconds", "rows a second", "peak GB", "note"], rows)
    finish(figures)


def summary(events: int, found: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the figures of the largest log."""

    def figure(name: str, column: int) -> float | None:
        return found[name][column] if name in found else None

    return {
        "events": events,
        "import_seconds": figure("import", 0),
        "validate_seconds": figure("validate", 0),
        "import_peak_gb": figure("import", 2),
        "validate_peak_gb": figure("validate", 2),
        "history_seconds": figure("histories", 0),
        "online_p99_ms": {
            name: found[name][3]["p99_ms"]
            for name in ("online sqlite", "online redis")
            if name in found
        },
        "workers_import_seconds": figure("import parts, 2 Ray workers", 0),
        "pandas_import_seconds": figure("pandas import", 0),
        "pandas_import_peak_gb": figure("pandas import", 2),
    }


def measure(
    folder: Path, events: int, largest: int, only: list[str] | None
) -> dict[str, list[Any]]:
    """Run every part, or those that are named, over one log; return seconds, rows a second, peak GB and a note for each."""
    make_log(folder / "log", events)
    split_log(folder / "log", folder / "parts")
    parts = [
        "import",
        "import parts",
        "import parts, 2 Ray workers",
        "pandas import",
        "validate",
        "pandas validate",
        "views",
        "histories",
        "pandas histories",
    ]
    online = [
        "materialise",
        "pandas materialise",
        "online sqlite",
        "online sqlite, Feast's read",
        "push sqlite",
    ]
    parts += online if events <= largest else []
    there = ["views postgres", "histories postgres"]
    found = {}
    for name in [name for name in only or parts if name not in there]:
        found[name] = child(name, folder, {})
    if events <= largest and program("postgres") and (not only or set(there) & set(only)):
        with postgres() as port:
            url = f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres?sslmode=disable"
            for name in there:
                found[name] = child(name, folder, {"EAGER_LLM_OFFLINE_STORE": url})
    if events <= largest and not only and shutil.which("redis-server"):
        with redis() as url:
            found["materialise redis"] = child(
                "materialise", folder, {"EAGER_LLM_ONLINE_STORE": url}
            )
            for name in ("online redis", "online redis, Feast's read", "push redis"):
                found[name] = child(name, folder, {"EAGER_LLM_ONLINE_STORE": url})
    return {
        name: [f["seconds"], round(f["rows"] / f["seconds"]), f["peak_gb"], f["note"]]
        for name, f in found.items()
    }


def make_log(folder: Path, events: int) -> None:
    """Write events.csv and items.csv in pieces: a hundredth as many items as events, at least a thousand."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    users, items = events // 10, max(1000, events // 100)
    with (folder / "events.csv").open("w") as log:
        log.write("user_id,item_id,timestamp\n")
        for start in range(0, events, 500_000):
            n = min(500_000, events - start)
            chosen = (items * rng.random(n) ** 2).astype(int)
            moments = 1_600_000_000 + rng.integers(0, 100_000_000, n)
            triples = zip(
                rng.integers(0, users, n).tolist(), chosen.tolist(), moments.tolist(), strict=True
            )
            log.write("".join(f"user-{u},item-{i},{t}\n" for u, i, t in triples))
    with (folder / "items.csv").open("w") as catalogue:
        catalogue.write("item_id,title,brand,categories\n")
        catalogue.writelines(
            f'item-{n},Thing number {n},Brand {n % 50},"Shop,Shelf {n % 20}"\n'
            for n in range(items)
        )


def split_log(log: Path, folder: Path, files: int = 4) -> None:
    """Copy a log with its events in several files."""
    folder.mkdir()
    shutil.copy(log / "items.csv", folder)
    with (log / "events.csv").open() as whole:
        header, size = whole.readline(), (log / "events.csv").stat().st_size
        for number in range(files):
            with (folder / f"events-{number}.csv").open("w") as part:
                part.write(header)
                part.writelines(whole.readlines(size // files))


def child(name: str, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run a part in a process of its own."""
    command = [sys.executable, __file__, "--part", name, str(folder)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"  {name}: {result['seconds']:.1f} s, {result['peak_gb']:.2f} GB {result['note'] or ''}",
        flush=True,
    )
    return result


def part(name: str, folder: Path) -> None:
    """Do one part and print its seconds, rows, peak and note as JSON."""
    import contextlib
    import io

    work = SPLITS[name]
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        seconds, rows, note = work(folder)
    seconds = seconds or time.perf_counter() - started
    metadata = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in metadata.splitlines() if line.startswith("VmHWM"))
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(
        json.dumps(
            {"seconds": seconds, "rows": rows, "peak_gb": (peak + children) / 1e6, "note": note}
        )
    )


def do_import(folder: Path) -> tuple[float, int, Any]:
    """Import and clean by the library."""
    return _imported(folder / "log", folder / "tables")


def do_import_parts(folder: Path) -> tuple[float, int, Any]:
    """The same log in four files."""
    return _imported(folder / "parts", folder / "tables-of-parts")


def do_import_workers(folder: Path) -> tuple[float, int, Any]:
    """The same by two Ray workers on this machine, starting Ray included."""
    seconds, rows, note = _imported(
        folder / "parts", folder / "tables-of-workers", "data.workers=2"
    )
    return seconds, rows, f"{note}; without the workers' memory"


def _imported(log: Path, out: Path, *more: str) -> tuple[float, int, Any]:
    from eager_llm.settings import Settings
    from eager_llm.steps.ingest_data import ingest

    settings = Settings.read(
        None, ["data.min_interactions=5", f"data.memory_gb={os.environ[MEMORY]}", *more]
    )
    metadata = ingest(str(log), settings, out)
    return 0, metadata["events_read"], f"{metadata['events']:,} events kept"


def do_pandas_import(folder: Path) -> tuple[float, int, Any]:
    """The same in pandas: read, parse times, drop duplicates, order ties by a hash, k-core, write."""
    import pandas as pd

    events = pd.read_csv(folder / "log" / "events.csv", dtype=str, keep_default_na=False)
    read = len(events)
    items = pd.read_csv(folder / "log" / "items.csv", dtype=str, keep_default_na=False)
    events["timestamp"] = pd.to_datetime(
        pd.to_numeric(events["timestamp"]), unit="s", utc=True
    ).dt.as_unit("us")
    events = events.drop_duplicates(["user_id", "item_id", "timestamp"])
    while True:
        enough = (events.groupby("user_id")["item_id"].transform("size") >= 5) & (
            events.groupby("item_id")["user_id"].transform("size") >= 5
        )
        if enough.all():
            break
        events = events[enough]
    lots = pd.util.hash_pandas_object(events["user_id"] + "\0" + events["item_id"], index=False)
    events = (
        events.assign(lot=lots).sort_values(["user_id", "timestamp", "lot"]).drop(columns="lot")
    )
    rank = events.groupby(["user_id", "timestamp"]).cumcount()
    events["timestamp"] = events["timestamp"] + pd.to_timedelta(rank, unit="us")
    events.reset_index(drop=True).to_parquet(folder / "pandas.parquet")
    items[items["item_id"].isin(events["item_id"])].to_parquet(folder / "pandas-items.parquet")
    return 0, read, f"{len(events):,} events kept"


def do_validate(folder: Path) -> tuple[float, int, Any]:
    """Every gate, and the tables passed on."""
    import pyarrow.parquet as pq

    from eager_llm.settings import Settings
    from eager_llm.steps.validate_data import validate

    settings = Settings.read(None, [f"data.memory_gb={os.environ[MEMORY]}"])
    figures = validate(folder / "tables", settings, folder / "validated", folder / "gates.html")
    return (
        0,
        pq.read_metadata(folder / "tables" / "events.parquet").num_rows,
        f"{figures['gates']} gates",
    )


def do_pandas_validate(folder: Path) -> tuple[float, int, Any]:
    """The same rules in pandas."""
    import pandas as pd

    events, items = (
        pd.read_parquet(folder / "pandas.parquet"),
        pd.read_parquet(folder / "pandas-items.parquet"),
    )
    held = [
        not events.duplicated(["user_id", "item_id", "timestamp"]).any(),
        events["user_id"].notna().all(),
        events["timestamp"].notna().all(),
        events["item_id"].isin(items["item_id"]).all(),
        not (events.groupby("user_id", sort=False)["timestamp"].diff() <= pd.Timedelta(0)).any(),
        not items["item_id"].duplicated().any(),
        (events.groupby("user_id").size() >= 3).all(),
        events["user_id"].nunique() >= 10,
    ]
    return 0, len(events), f"{sum(held)} of {len(held)} rules hold"


def _features(folder: Path) -> Any:
    from eager_llm.features.feature_store import Features

    return Features(ROOT / "feature_repo", folder / "features")


def do_views(folder: Path) -> tuple[float, int, Any]:
    """Write every feature table, and apply the definitions; nothing goes online."""
    features = _features(folder)
    features.folder.mkdir(exist_ok=True)
    features._materialize = lambda views, moments: None
    return 0, sum(features.publish(folder / "tables", MAX_HISTORY).values()), "rows of all views"


def do_histories(folder: Path) -> tuple[float, int, Any]:
    """Point-in-time histories of the last event of 1e5 users, through Feast, its store open."""
    features, asked = _features(folder), _asked(folder)
    # Libraries are loaded before the clock runs, as they are for pandas.
    features.store.get_feature_view("user_history")
    started = time.perf_counter()
    found = features.histories(asked)
    return time.perf_counter() - started, len(found), f"{found['history'].map(len).sum():,} items"


def do_pandas_histories(folder: Path) -> tuple[float, int, Any]:
    """The same by one pass of pandas over the sorted log, reading it included."""
    import pandas as pd

    asked = _asked(folder)
    started = time.perf_counter()
    events = pd.read_parquet(
        folder / "tables" / "events.parquet", columns=["user_id", "item_id", "timestamp"]
    )
    events = events[events["user_id"].isin(asked["user_id"])].merge(asked, on="user_id")
    past = events[events["timestamp"] < events["moment"]]
    found = past.groupby("user_id")["item_id"].agg(lambda items: items.tolist()[-MAX_HISTORY:])
    return time.perf_counter() - started, len(asked), f"{found.map(len).sum():,} items"


def _asked(folder: Path) -> Any:
    import duckdb

    return (
        duckdb.connect()
        .execute(
            "SELECT user_id, max(timestamp) AS moment FROM read_parquet(?) GROUP BY user_id ORDER BY hash(user_id) LIMIT ?",
            [str(folder / "tables" / "events.parquet"), ASKED_USERS],
        )
        .df()
    )


def do_materialise(folder: Path) -> tuple[float, int, Any]:
    """Bring every user's latest history online."""
    import pandas as pd
    import pyarrow.parquet as pq

    features = _features(folder)
    features._apply()
    file = folder / "features" / "user_history.parquet"
    moments = pq.read_table(file, columns=["event_timestamp"])["event_timestamp"].to_pandas()
    started = time.perf_counter()
    features._materialize(["user_history"], pd.Series([moments.min(), moments.max()]))
    users = pq.read_table(folder / "tables" / "events.parquet", columns=["user_id"])[
        "user_id"
    ].unique()
    return time.perf_counter() - started, len(users), "users"


def do_pandas_materialise(folder: Path) -> tuple[float, int, Any]:
    """The same by pandas and sqlite3: the last row of each user, as JSON under the user's key."""
    import sqlite3

    import pandas as pd

    started = time.perf_counter()
    rows = pd.read_parquet(folder / "features" / "user_history.parquet")
    last = rows.sort_values("event_timestamp").drop_duplicates("user_id", keep="last")
    values = (
        (user, json.dumps(list(items)))
        for user, items in zip(last["user_id"], last["items"], strict=True)
    )
    with sqlite3.connect(folder / "pandas.db") as database:
        database.execute("CREATE TABLE history (user TEXT PRIMARY KEY, items TEXT)")
        database.executemany("INSERT INTO history VALUES (?, ?)", values)
    return time.perf_counter() - started, len(last), "users"


def do_online(folder: Path) -> tuple[float, int, Any]:
    """Read single users' histories online; the percentiles of the calls."""
    features = _features(folder)
    return _timed_calls(folder, features.online_history)


def do_feast_online(folder: Path) -> tuple[float, int, Any]:
    """The same by Feast's own read."""
    store = _features(folder).store
    asked = ["user_history:items"]
    return _timed_calls(
        folder, lambda u: store.get_online_features(asked, [{"user_id": u}]).to_dict()["items"][0]
    )


def do_push(folder: Path) -> tuple[float, int, Any]:
    """Add an event to single users' histories online, as the API does."""
    import pandas as pd

    features, moment = _features(folder), pd.Timestamp.now("UTC")
    return _timed_calls(
        folder, lambda u: features.push(u, "item-0", moment, MAX_HISTORY)[0], READS // 10
    )


def _timed_calls(folder: Path, call: Any, n: int = READS) -> tuple[float, int, Any]:
    users = _asked(folder)["user_id"].sample(n + 50, random_state=0, replace=True).tolist()
    for user in users[:50]:
        call(user)
    times = []
    for user in users[50:]:
        started = time.perf_counter()
        found = call(user)
        times.append(time.perf_counter() - started)
        if not found:
            raise RuntimeError(f"{user} is not online")
    milliseconds = {f"p{q}_ms": round(float(np.percentile(times, q)) * 1000, 3) for q in (50, 99)}
    return sum(times), len(times), milliseconds


SPLITS = {
    "import": do_import, "import parts": do_import_parts, "import parts, 2 Ray workers": do_import_workers, "pandas import": do_pandas_import, "validate": do_validate, "pandas validate": do_pandas_validate,
    "views": do_views, "histories": do_histories, "pandas histories": do_pandas_histories,
    "views postgres": do_views, "histories postgres": do_histories,
    "materialise": do_materialise, "pandas materialise": do_pandas_materialise,
    "online sqlite": do_online, "online sqlite, Feast's read": do_feast_online, "push sqlite": do_push,
    "online redis": do_online, "online redis, Feast's read": do_feast_online, "push redis": do_push,
}  # fmt: skip


class redis:
    """A Redis on a free loopback port, without a file, for the length of a block."""

    def __enter__(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            "redis-server",
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return f"redis://127.0.0.1:{port}"
            time.sleep(0.05)
        raise RuntimeError("redis-server does not answer")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


if __name__ == "__main__":
    main()
