"""PostgreSQL as the offline store: the published feature tables in a schema of a warehouse."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import duckdb
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.core.progress import progress
from eager_llm.features.offline_store import KEYS, Change

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

OFFLINE_VARIABLE = "EAGER_LLM_OFFLINE_STORE"
PASSWORD_VARIABLE = "PGPASSWORD"  # noqa: S105, the name that PostgreSQL's own programs read
SCHEMA = "eager_llm"
OPTIONS = ("schema", "sslmode", "sslrootcert", "sslcert", "sslkey")
ROWS = 10_000
PATIENCE_SECONDS = 10
# DuckDB's types of the feature tables, and PostgreSQL's.
TYPES = {
    "VARCHAR": "text", "VARCHAR[]": "text[]", "BIGINT": "bigint", "BIGINT[]": "bigint[]", "DOUBLE": "double precision",
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
}  # fmt: skip


class Warehouse:
    """The published tables in a schema of PostgreSQL.

    Publishing writes only the rows that differ, in one transaction a table: whoever reads meanwhile reads
    the table before. A row's keys and its moment are the table's primary key.

    Args:
        url: `postgresql://user:password@host:port/database?schema=eager_llm&sslmode=require`. A password
            that it lacks is read from PGPASSWORD. It stands in no message.

    Raises:
        UserError: the URL is of another kind, or lacks a part.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port or 5432
        except ValueError:
            raise UserError(
                f"{OFFLINE_VARIABLE}: not readable as a URL (escape special characters as %40)"
            ) from None
        options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if parts.scheme not in ("postgresql", "postgres"):
            raise UserError(
                f"{OFFLINE_VARIABLE}: choose duckdb, or postgresql://user:password@host:port/database"
            )
        if not (parts.hostname and parts.username and parts.path.strip("/")):
            raise UserError(f"{OFFLINE_VARIABLE}: the URL names no user, no host or no database")
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise UserError(
                f"{OFFLINE_VARIABLE}: unknown {', '.join(unknown)}; known are {', '.join(OPTIONS)}"
            )
        self._host, self._port, self._database = (
            parts.hostname,
            port,
            unquote(parts.path.strip("/")),
        )
        self.schema = options.pop("schema", SCHEMA)
        if not self.schema.isidentifier() or self.schema != self.schema.lower():
            raise UserError(
                f"{OFFLINE_VARIABLE}: schema={self.schema}: lower-case letters, digits and _ only"
            )
        self._login = {
            "user": unquote(parts.username),
            "password": unquote(parts.password or "") or os.environ.get(PASSWORD_VARIABLE, ""),
        }
        self._ssl = {"sslmode": "require", **options}

    @property
    def place(self) -> str:
        """Where it is, in words that may be printed."""
        return f"{self._host}:{self._port}/{self._database}, schema {self.schema}"

    @property
    def feast(self) -> dict[str, Any]:
        """Feast's configuration of the store; it holds the password."""
        return {
            "type": "postgres", "host": self._host, "port": self._port, "database": self._database,
            "db_schema": self.schema, **self._login,
            **{key if key == "sslmode" else f"{key}_path": value for key, value in self._ssl.items()},
        }  # fmt: skip

    def mend_feast(self) -> None:
        """Let Feast tell the rows of two keys apart.

        Its point-in-time join knows a row by its keys' texts one after the other, so that user u1 with event type 2x
        and user u12 with x get each other's history. Its DuckDB store writes the length before each text, and so does this.
        """
        from feast.infra.offline_stores.contrib.postgres_offline_store import postgres

        key = 'CAST("{{entity}}" as VARCHAR) ||'
        sized = f"length({key.removesuffix(' ||')}) || ':' || {key}"
        if sized not in postgres.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN:
            mended = postgres.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN.replace(key, sized)
            postgres.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN = mended

    def replace(
        self, connection: duckdb.DuckDBPyConnection, view: str, query: str
    ) -> Change | None:
        """Make the query's rows the view's table, and return how it differs from the one before."""
        from psycopg import sql

        found = connection.execute(f"DESCRIBE {query}").fetchall()
        columns = {row[0]: TYPES[row[1]] for row in found}
        keys = [column for column in columns if column in KEYS]
        names = {
            "table": sql.Identifier(view),
            "keys": sql.SQL(", ").join(map(sql.Identifier, keys)),
            "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
        }
        with self._cursor() as cursor:

            def do(text: str) -> "Cursor":
                return cursor.execute(sql.SQL(text).format(**names))

            cursor.execute(
                sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self.schema))
            )
            # One publication at a time.
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"{self.schema}.{view}"])
            declared = [
                sql.SQL("{} {}").format(sql.Identifier(c), sql.SQL(kind))
                for c, kind in columns.items()
            ]
            cursor.execute(
                sql.SQL("CREATE TEMP TABLE now ({}) ON COMMIT DROP").format(
                    sql.SQL(", ").join(declared)
                )
            )
            _copy(connection, cursor, view, query, list(columns.values()))
            before = _columns(cursor, self.schema, view)
            if before != columns:
                # Where a view has got a new feature, every row is new.
                do("DROP TABLE IF EXISTS {table}")
                do("CREATE TABLE {table} (LIKE now, PRIMARY KEY ({keys}, event_timestamp))")
            do(
                "CREATE TEMP TABLE fresh ON COMMIT DROP AS SELECT * FROM now EXCEPT SELECT {columns} FROM {table}"
            )
            do(
                "CREATE TEMP TABLE gone ON COMMIT DROP AS SELECT {columns} FROM {table} EXCEPT SELECT * FROM now"
            )
            do("DELETE FROM {table} USING gone WHERE ({table}.event_timestamp = gone.event_timestamp) AND "
               + " AND ".join(f"{{table}}.{key} = gone.{key}" for key in keys))  # fmt: skip
            do("INSERT INTO {table} ({columns}) SELECT {columns} FROM fresh")
            # Up to the end of the log, else a user's row inside the range would replace a later one.
            row = do(
                "SELECT count(*), min(event_timestamp), (SELECT max(event_timestamp) FROM now) FROM fresh"
            ).fetchone()
            if row is None or not row[0]:
                return None
            entities = do("SELECT DISTINCT {keys} FROM fresh").fetchall() if before else []
            return Change(
                int(row[0]),
                row[1],
                row[2],
                [dict(zip(keys, map(str, e), strict=True)) for e in entities],
            )

    def read(self, view: str) -> pd.DataFrame | None:
        """Return a view's table, or None where it has not been published."""
        from psycopg import sql

        with self._cursor() as cursor:
            if not _columns(cursor, self.schema, view):
                return None
            rows = cursor.execute(
                sql.SQL("SELECT * FROM {}").format(sql.Identifier(view))
            ).fetchall()
            table = pd.DataFrame(rows, columns=[column.name for column in cursor.description or []])
            return table.assign(
                event_timestamp=pd.to_datetime(table["event_timestamp"], utc=True).dt.as_unit("us")
            )

    def some_users(self, n: int) -> list[str]:
        """Return some users of the published histories, in the order of their ids."""
        with self._cursor() as cursor:
            if not _columns(cursor, self.schema, "user_history"):
                return []
            rows = cursor.execute(
                "SELECT DISTINCT user_id FROM user_history ORDER BY user_id LIMIT %s", [n]
            ).fetchall()
            return [str(user) for (user,) in rows]

    def erase(self, users: Sequence[str]) -> dict[str, int]:
        """Remove the users' rows from every table of the schema that names users; return the rows of each.

        That takes in what a killed retrieval of Feast's has left behind.
        """
        from psycopg import sql

        with self._cursor() as cursor:
            found = cursor.execute(
                "SELECT c.table_name FROM information_schema.columns c JOIN information_schema.tables t "
                "USING (table_schema, table_name) WHERE c.table_schema = %s AND c.column_name = 'user_id' "
                "AND t.table_type = 'BASE TABLE' ORDER BY 1",
                [self.schema],
            ).fetchall()
            removed = {}
            for (table,) in found:
                gone = sql.SQL("DELETE FROM {} WHERE user_id::text = ANY(%s)").format(
                    sql.Identifier(table)
                )
                removed[str(table)] = cursor.execute(gone, [list(users)]).rowcount
            return removed

    @contextmanager
    def _cursor(self) -> Iterator["Cursor"]:
        """Open a transaction, which is undone where the block ends with an error.

        Raises:
            UserError: the warehouse does not answer, or refuses.
        """
        try:
            import psycopg
            from psycopg.conninfo import make_conninfo
        except ImportError as error:
            raise UserError(
                f"the warehouse's driver is not installed: {error}; it comes with feast[postgres]"
            ) from None
        try:
            where = make_conninfo(
                host=self._host, port=self._port, dbname=self._database, connect_timeout=PATIENCE_SECONDS,
                options=f"-c search_path={self.schema} -c TimeZone=UTC", **self._login, **self._ssl,
            )  # fmt: skip
            connection: Connection = psycopg.connect(where)
            with connection, connection.cursor() as cursor:
                yield cursor
        except psycopg.Error as error:
            # The second line names the row, where it is one row's fault.
            said = " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
            raise UserError(f"the warehouse {self.place}: {said}") from None


def _copy(
    connection: duckdb.DuckDBPyConnection, cursor: "Cursor", view: str, query: str, types: list[str]
) -> None:
    """Stream the query's rows into the table `now`."""
    reader = connection.execute(query).to_arrow_reader(ROWS)
    with (
        cursor.copy("COPY now FROM STDIN (FORMAT BINARY)") as copy,
        progress(desc=f"loading {view}", unit=" rows", delay=2) as bar,
    ):
        copy.set_types(types)
        for batch in reader:
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                copy.write_row(row)
            bar.update(batch.num_rows)


def _columns(cursor: "Cursor", schema: str, table: str) -> dict[str, str]:
    """Return a table's columns with their types; none where there is no such table."""
    rows: list[Any] = cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass(%s) "
        "AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [f"{schema}.{table}"],
    ).fetchall()
    return {
        name: "timestamptz" if kind == "timestamp with time zone" else kind for name, kind in rows
    }
