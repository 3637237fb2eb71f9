"""Times in every usual form, as SQL: microseconds since 1970, UTC."""

from eager_llm.core.duckdb_engine import listed, literal

UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0.001}
# ISO 8601 as DuckDB reads it comes first; these are tried where it does not.
FORMATS = (
    "%Y%m%dT%H%M%SZ", "%Y%m%dT%H%M%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z", "%a, %d %b %Y %H:%M:%S GMT",
    "%a, %d %b %Y %H:%M:%S %z", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d",
)  # fmt: skip
# A clock may be a little ahead; nothing honest is later than tomorrow.
LATEST = "epoch_us(now()) + 86400000000"
LEAST = 0


def microseconds(value: str, time_format: str = "", time_unit: str = "") -> str:
    """Return SQL for the microseconds since 1970 of the text expression `value`; NULL where it is no time.

    A number's unit follows from its size unless it is named: below 1e11 seconds (until the year
    5138), below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds. A date without zone
    is UTC.
    """
    if time_format:
        return f"epoch_us(try_strptime({value}, {literal(time_format)}))"
    # Whole numbers stay whole: a double has no microseconds left from 2255 on.
    number, whole = f"try_cast({value} AS DOUBLE)", f"try_cast({value} AS BIGINT)"
    if time_unit:
        scaled = f"try_cast(round({number} * {UNITS[time_unit]}) AS BIGINT)"
    else:
        scaled = (
            f"CASE WHEN abs({number}) < 1e11 THEN coalesce({whole} * 1000000, try_cast(round({number} * 1e6) AS BIGINT)) "
            f"WHEN abs({number}) < 1e14 THEN try_cast(round({number} * 1e3) AS BIGINT) "
            f"WHEN abs({number}) < 1e17 THEN coalesce({whole}, try_cast(round({number}) AS BIGINT)) "
            f"ELSE try_cast(round({number} / 1e3) AS BIGINT) END"
        )
    date = (
        f"coalesce(CASE WHEN isfinite(try_cast({value} AS TIMESTAMPTZ)) THEN epoch_us(try_cast({value} AS TIMESTAMPTZ)) END, "
        f"epoch_us(try_strptime({value}, {listed(FORMATS)})))"
    )
    return f"CASE WHEN {number} IS NOT NULL THEN {scaled} ELSE {date} END"


def fault(value: str, us: str) -> str:
    """Return SQL for what is wrong with a time, or NULL."""
    shown = (
        f"CASE WHEN length({value}) > 60 THEN {value}[:60] || '...' ELSE coalesce({value}, '') END"
    )
    return (
        f"CASE WHEN {us} IS NULL THEN 'timestamp ''' || {shown} || ''' is neither an ISO date nor seconds since 1970' "
        f"WHEN {us} < {LEAST} THEN 'timestamp ''' || {shown} || ''' is before 1970' "
        f"WHEN {us} > {LATEST} THEN 'timestamp ''' || {shown} || ''' is later than tomorrow' END"
    )
