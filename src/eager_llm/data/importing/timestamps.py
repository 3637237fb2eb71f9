"""Times in every usual form, as SQL: microseconds since 1970, UTC."""

from eager_llm.core.duckdb_engine import list_literal, literal

UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0.001}
# ISO 8601 as DuckDB reads it comes first; these are tried where it does not.
TIME_FORMATS = (
    "%Y%m%dT%H%M%SZ",
    "%Y%m%dT%H%M%S",
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%dT%H:%M%z",
    "%a, %d %b %Y %H:%M:%S GMT",
    "%a, %d %b %Y %H:%M:%S %z",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
)
# A clock may be a little ahead; nothing honest is later than tomorrow.
LATEST = "epoch_us(now()) + 86400000000"
EARLIEST = 0
LONGEST_SHOWN = 60


def microseconds(value: str, time_format: str = "", time_unit: str = "") -> str:
    """Return SQL for the microseconds since 1970 of a text expression; NULL where it is no time.

    A number's unit follows from its size unless it is named: below 1e11 seconds (until the year
    5138), below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds. A date without zone
    is UTC.

    Args:
        value: SQL of the text.
        time_format: strptime's format of the times; empty: every usual form.
        time_unit: a key of `UNITS`; empty: by the size of the number.
    """
    if time_format:
        return f"epoch_us(try_strptime({value}, {literal(time_format)}))"
    number = f"try_cast({value} AS DOUBLE)"
    if time_unit:
        scaled = f"try_cast(round({number} * {UNITS[time_unit]}) AS BIGINT)"
    else:
        scaled = _scaled_by_size(value, number)
    iso_date = f"try_cast({value} AS TIMESTAMPTZ)"
    date = (
        f"coalesce(CASE WHEN isfinite({iso_date}) THEN epoch_us({iso_date}) END, "
        f"epoch_us(try_strptime({value}, {list_literal(TIME_FORMATS)})))"
    )
    return f"CASE WHEN {number} IS NOT NULL THEN {scaled} ELSE {date} END"


def _scaled_by_size(value: str, number: str) -> str:
    """Return SQL for a number in microseconds, its unit told by its size."""
    # Whole numbers stay whole: a double has no microseconds left from 2255 on.
    whole = f"try_cast({value} AS BIGINT)"
    seconds = f"coalesce({whole} * 1000000, try_cast(round({number} * 1e6) AS BIGINT))"
    milliseconds = f"try_cast(round({number} * 1e3) AS BIGINT)"
    us = f"coalesce({whole}, try_cast(round({number}) AS BIGINT))"
    nanoseconds = f"try_cast(round({number} / 1e3) AS BIGINT)"
    return (
        f"CASE WHEN abs({number}) < 1e11 THEN {seconds} "
        f"WHEN abs({number}) < 1e14 THEN {milliseconds} "
        f"WHEN abs({number}) < 1e17 THEN {us} ELSE {nanoseconds} END"
    )


def time_fault(value: str, us: str) -> str:
    """Return SQL for what is wrong with a time, or NULL.

    Args:
        value: SQL of the text.
        us: SQL of its microseconds.
    """
    shown = (
        f"CASE WHEN length({value}) > {LONGEST_SHOWN} THEN {value}[:{LONGEST_SHOWN}] || '...' "
        f"ELSE coalesce({value}, '') END"
    )
    quoted = f"'timestamp ''' || {shown} || '''"
    return (
        f"CASE WHEN {us} IS NULL THEN {quoted} is neither an ISO date nor seconds since 1970' "
        f"WHEN {us} < {EARLIEST} THEN {quoted} is before 1970' "
        f"WHEN {us} > {LATEST} THEN {quoted} is later than tomorrow' END"
    )
