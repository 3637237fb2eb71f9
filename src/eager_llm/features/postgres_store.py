"""PostgreSQL as the offline store: the published feature tables in a schema of a warehouse."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import duckdb
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.core.progress import progress
from eager_llm.features.offline_store import Change, entity_keys, key_columns

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

OFFLINE_VARIABLE = "EAGER_LLM_OFFLINE_STORE"
PASSWORD_VARIABLE = "PGPASSWORD"  # noqa: S105, the name that PostgreSQL's own programs read
SCHEMA = "eager_llm"
OPTIONS = ("schema", "sslmode", "sslrootcert", "sslcert", "sslkey")
ROWS_A_BATCH = 10_000
CONNECT_SECONDS = 10
# DuckDB's types of the feature tables, and PostgreSQL's.
TYPES = {
    "VARCHAR": "text",
    "VARCHAR[]": "text[]",
    "BIGINT": "bigint",
    "BIGINT[]": "bigint[]",
    "DOUBLE": "double precision",
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
}
# PostgreSQL's own names of types, where `TYPES` has a shorter one.
_SHORT_NAMES = {"timestamp with time zone": "timestamptz"}


class Warehouse:
    """The published tables in a schema of PostgreSQL.

    Publishing writes only the rows that differ, in one transaction a table: whoever reads meanwhile
    reads the table before. A row's keys and its moment are the table's primary key.

    Args:
        url: `postgresql://user:password@host:port/database?schema=eager_llm&sslmode=require`. A
            password that it lacks is read from PGPASSWORD. It stands in no message.

    Raises:
        UserError: the URL is of another kind, or lacks a part.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            self._port = parts.port or 5432
        except ValueError:
            raise UserError(
                f"{OFFLINE_VARIABLE}: not readable as a URL (escape special characters as %40)"
            ) from None
        if parts.scheme not in ("postgresql", "postgres"):
            raise UserError(
                f"{OFFLINE_VARIABLE}: choose duckdb, "
                "or postgresql://user:password@host:port/database"
            )
        database = unquote(parts.path.strip("/"))
        if not (parts.hostname and parts.username and database):
            raise UserError(f"{OFFLINE_VARIABLE}: the URL names no user, no host or no database")
        options = _url_options(parts.query)
        self.schema = options.pop("schema", SCHEMA)
        if not self.schema.isidentifier() or self.schema != self.schema.lower():
            raise UserError(
                f"{OFFLINE_VARIABLE}: schema={self.schema}: lower-case letters, digits and _ only"
            )
        self._host = parts.hostname
        self._database = database
        password = unquote(parts.password or "") or os.environ.get(PASSWORD_VARIABLE, "")
        self._login = {"user": unquote(parts.username), "password": password}
        self._ssl = {"sslmode": "require", **options}

    @property
    def location(self) -> str:
        """Where it is, in words that may be printed."""
        return f"{self._host}:{self._port}/{self._database}, schema {self.schema}"

    @property
    def feast(self) -> dict[str, Any]:
        """Feast's configuration of the store; it holds the password."""
        config: dict[str, Any] = {
            "type": "postgres",
            "host": self._host,
            "port": self._port,
            "database": self._database,
            "db_schema": self.schema,
            **self._login,
        }
        for name, value in self._ssl.items():
            field = name if name == "sslmode" else f"{name}_path"
            config[field] = value
        return config

    def patch_feast(self) -> None:
        """Let Feast tell the rows of two keys apart.

        Its point-in-time join knows a row by its keys' texts one after the other, so that user u1
        with event type 2x and user u12 with x get each other's history. Its DuckDB store writes the
        length before each text, and so does this.
        """
        from feast.infra.offline_stores.contrib.postgres_offline_store import postgres

        text = 'CAST("{{entity}}" as VARCHAR)'
        key = f"{text} ||"
        key_with_length = f"length({text}) || ':' || {key}"
        join = postgres.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN
        if key_with_length not in join:
            join = join.replace(key, key_with_length)
            postgres.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN = join

    def replace(
        self, connection: duckdb.DuckDBPyConnection, view: str, query: str
    ) -> Change | None:
        """Make the query's rows the view's table; see `OfflineTables`."""
        described = connection.execute(f"DESCRIBE {query}").fetchall()
        columns = {name: TYPES[kind] for name, kind, *_ in described}
        with self._cursor() as cursor:
            publication = _Publication(cursor, self.schema, view, columns)
            publication.start()
            _copy(connection, cursor, view, query, list(columns.values()))
            return publication.finish()

    def read(self, view: str) -> pd.DataFrame | None:
        """Return a view's table, or None where it has not been published."""
        from psycopg import sql

        with self._cursor() as cursor:
            if not _columns(cursor, self.schema, view):
                return None
            query = sql.SQL("SELECT * FROM {}").format(sql.Identifier(view))
            rows = cursor.execute(query).fetchall()
            names = [column.name for column in cursor.description or []]
        table = pd.DataFrame(rows, columns=names)
        moments = pd.to_datetime(table["event_timestamp"], utc=True)
        return table.assign(event_timestamp=moments.dt.as_unit("us"))

    def some_users(self, n: int) -> list[str]:
        """Return some users of the published histories, in the order of their ids."""
        query = "SELECT DISTINCT user_id FROM user_history ORDER BY user_id LIMIT %s"
        with self._cursor() as cursor:
            if not _columns(cursor, self.schema, "user_history"):
                return []
            rows = cursor.execute(query, [n]).fetchall()
        return [str(user) for (user,) in rows]

    def erase(self, users: Sequence[str]) -> dict[str, int]:
        """Remove the users' rows from every table of the schema that names users.

        That takes in what a killed retrieval of Feast's has left behind.

        Returns:
            For each of these tables how many rows were removed.
        """
        from psycopg import sql

        tables_of_users = (
            "SELECT c.table_name FROM information_schema.columns c "
            "JOIN information_schema.tables t USING (table_schema, table_name) "
            "WHERE c.table_schema = %s AND c.column_name = 'user_id' "
            "AND t.table_type = 'BASE TABLE' ORDER BY 1"
        )
        deletion = sql.SQL("DELETE FROM {} WHERE user_id::text = ANY(%s)")
        removed = {}
        with self._cursor() as cursor:
            tables = cursor.execute(tables_of_users, [self.schema]).fetchall()
            for (table,) in tables:
                statement = deletion.format(sql.Identifier(table))
                removed[str(table)] = cursor.execute(statement, [list(users)]).rowcount
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
            address = make_conninfo(
                host=self._host,
                port=self._port,
                dbname=self._database,
                connect_timeout=CONNECT_SECONDS,
                options=f"-c search_path={self.schema} -c TimeZone=UTC",
                **self._login,
                **self._ssl,
            )
            connection: Connection = psycopg.connect(address)
            with connection, connection.cursor() as cursor:
                yield cursor
        except psycopg.Error as error:
            # The second line names the row, where it is one row's fault.
            lines = str(error).strip().splitlines()[:2]
            reason = " ".join(lines) or type(error).__name__
            raise UserError(f"the warehouse {self.location}: {reason}") from None


class _Publication:
    """One table's publication within a transaction: the rows go to `incoming`, then what differs.

    Args:
        cursor: the transaction's.
        schema: schema of the tables.
        view: name of the feature view, and of its table.
        columns: PostgreSQL's type of each column.
    """

    def __init__(
        self, cursor: "Cursor", schema: str, view: str, columns: Mapping[str, str]
    ) -> None:
        from psycopg import sql

        self._cursor = cursor
        self._schema = schema
        self._view = view
        self._columns = dict(columns)
        self._keys = key_columns(columns)
        declared = []
        for name, kind in columns.items():
            declaration = sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind))
            declared.append(declaration)
        comma = sql.SQL(", ")
        self._names = {
            "schema": sql.Identifier(schema),
            "table": sql.Identifier(view),
            "keys": comma.join(map(sql.Identifier, self._keys)),
            "columns": comma.join(map(sql.Identifier, columns)),
            "declared": comma.join(declared),
        }

    def start(self) -> None:
        """Wait until no other publication of the view runs, and make the table `incoming`."""
        self._execute("CREATE SCHEMA IF NOT EXISTS {schema}")
        lock = "SELECT pg_advisory_xact_lock(hashtext(%s))"
        self._cursor.execute(lock, [f"{self._schema}.{self._view}"])
        self._execute("CREATE TEMP TABLE incoming ({declared}) ON COMMIT DROP")

    def finish(self) -> Change | None:
        """Bring the view's table to the rows of `incoming`, and return how it differed.

        Where a view has got a new feature, every row is new.
        """
        earlier_columns = _columns(self._cursor, self._schema, self._view)
        if earlier_columns != self._columns:
            self._execute("DROP TABLE IF EXISTS {table}")
            self._execute(
                "CREATE TABLE {table} (LIKE incoming, PRIMARY KEY ({keys}, event_timestamp))"
            )
        self._write_difference()
        # Up to the end of the log, else a user's row inside the range would replace a later one.
        row = self._execute(
            "SELECT count(*), min(event_timestamp), "
            "(SELECT max(event_timestamp) FROM incoming) FROM added"
        ).fetchone()
        if row is None or not row[0]:
            return None
        count, first, last = row
        keys: list[dict[str, str]] = []
        if earlier_columns:
            entities = self._execute("SELECT DISTINCT {keys} FROM added").fetchall()
            keys = entity_keys(self._keys, entities)
        return Change(int(count), first, last, keys)

    def _write_difference(self) -> None:
        """Delete the rows that are gone and insert those that are new, which `added` holds."""
        self._execute(
            "CREATE TEMP TABLE added ON COMMIT DROP AS "
            "SELECT * FROM incoming EXCEPT SELECT {columns} FROM {table}"
        )
        self._execute(
            "CREATE TEMP TABLE removed ON COMMIT DROP AS "
            "SELECT {columns} FROM {table} EXCEPT SELECT * FROM incoming"
        )
        same_row = ["{table}.event_timestamp = removed.event_timestamp"]
        same_row += [f"{{table}}.{key} = removed.{key}" for key in self._keys]
        self._execute("DELETE FROM {table} USING removed WHERE " + " AND ".join(same_row))
        self._execute("INSERT INTO {table} ({columns}) SELECT {columns} FROM added")

    def _execute(self, text: str) -> "Cursor":
        """Execute a statement, its names put in quoted."""
        from psycopg import sql

        return self._cursor.execute(sql.SQL(text).format(**self._names))


def _url_options(query: str) -> dict[str, str]:
    """Return the options of the warehouse's URL.

    Raises:
        UserError: one is unknown.
    """
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise UserError(
            f"{OFFLINE_VARIABLE}: unknown {', '.join(unknown)}; known are {', '.join(OPTIONS)}"
        )
    return options


def _copy(
    connection: duckdb.DuckDBPyConnection, cursor: "Cursor", view: str, query: str, types: list[str]
) -> None:
    """Stream the query's rows into the table `incoming`."""
    reader = connection.execute(query).to_arrow_reader(ROWS_A_BATCH)
    with (
        cursor.copy("COPY incoming FROM STDIN (FORMAT BINARY)") as copy,
        progress(desc=f"loading {view}", unit=" rows", delay=2) as bar,
    ):
        copy.set_types(types)
        for batch in reader:
            columns = [column.to_pylist() for column in batch.columns]
            for row in zip(*columns, strict=True):
                copy.write_row(row)
            bar.update(batch.num_rows)


def _columns(cursor: "Cursor", schema: str, table: str) -> dict[str, str]:
    """Return a table's columns with their types; none where there is no such table."""
    query = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    rows: list[Any] = cursor.execute(query, [f"{schema}.{table}"]).fetchall()
    columns = {}
    for name, kind in rows:
        columns[name] = _SHORT_NAMES.get(kind, kind)
    return columns
