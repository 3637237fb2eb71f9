"""Requests that mean no good, as bytes: what no schema would make up."""

import json
import string

from hypothesis import strategies as st

PATHS = ("/recommend", "/search", "/similar", "/describe", "/events")
COLUMNS = ("item_id", "title", "brand", "categories", "price", "no such column", "")
# Lone surrogates among them, which only an escape can send.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
HUGE = (10**18, 2**53 + 1, -(2**63), 2**64, 10**400, 1e308, -1e308, 5e-324, -0.0)
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=True), st.sampled_from(HUGE))
CELLS = st.one_of(ANY_TEXT, NUMBERS, st.booleans(), st.none())
VALUES = st.recursive(
    CELLS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
# Requests with a wish of their own: what they ask for is seldom asked for twice.
PRICES = st.floats(0, 1000, allow_nan=False)
TOKENS = st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=20)


@st.composite
def filters(draw, item_ids):
    """Draw conditions, of which some fit and some are made to cost much."""
    conditions = []
    for _ in range(draw(st.integers(0, 6))):
        column = draw(st.sampled_from(COLUMNS) | ANY_TEXT)
        condition = {"column": column, "deny": draw(st.booleans())}
        kind = draw(st.sampled_from(["price", "range", "values", "many", "ids"]))
        if kind == "price":
            condition |= {"column": "price", "most": draw(PRICES)}
        elif kind == "range":
            condition |= {"least": draw(NUMBERS | st.none()), "most": draw(NUMBERS | st.none())}
        elif kind == "values":
            condition["any_of"] = draw(st.lists(CELLS, max_size=5))
        elif kind == "many":
            seed, length = draw(st.integers(0, 10**9)), draw(st.sampled_from([10, 1000, 1001]))
            size = draw(st.sampled_from([5, 200]))
            condition["any_of"] = [f"{seed + n:0{size}}" for n in range(length)]
        else:
            ids = draw(st.lists(st.sampled_from(item_ids), min_size=1, max_size=8))
            condition |= {"column": "item_id", "any_of": [*ids, draw(TOKENS)]}
        conditions.append(condition)
    return conditions * draw(st.sampled_from([1, 1, 1, 20]))


@st.composite
def bodies(draw, item_ids):
    """Draw the fields of a body: some right, some of any kind."""
    history = st.lists(st.sampled_from(item_ids), max_size=30)
    fields = {
        "items": history | st.lists(ANY_TEXT, max_size=5) | VALUES,
        "user_id": TOKENS | ANY_TEXT | VALUES,
        "words": ANY_TEXT | TOKENS,
        "item_id": st.sampled_from(item_ids) | ANY_TEXT,
        "k": st.integers(1, 100) | VALUES,
        "filters": filters(item_ids) | VALUES,
        "exclude_history": st.booleans() | VALUES,
        "explain": st.booleans(),
        "timestamp": st.datetimes().map(lambda time: f"{time.isoformat()}+14:00") | VALUES,
        "max_tokens": st.integers(1, 4) | VALUES,
        "source": ANY_TEXT,
    }
    names = draw(st.sets(st.sampled_from(sorted(fields)), min_size=1, max_size=5))
    body = {name: draw(fields[name]) for name in sorted(names)}
    if draw(st.integers(0, 9)) == 0:
        body[draw(ANY_TEXT)] = draw(VALUES)
    return json.dumps(body).encode()


@st.composite
def costly_bodies(draw, item_ids):
    """Draw a body that /recommend, /search or /similar answers, and that no cache has."""
    body = {"k": draw(st.sampled_from([1, 10, 100]))}
    low = draw(PRICES)
    conditions = [{"column": "price", "least": low, "most": low + draw(PRICES)}]
    denied = draw(st.lists(TOKENS, max_size=20))
    if denied:
        conditions.append({"column": "item_id", "any_of": denied, "deny": True})
    body["filters"] = draw(st.sampled_from([[], conditions, conditions * 30]))
    path = draw(st.sampled_from(["/recommend", "/recommend", "/search", "/similar"]))
    if path == "/similar":
        return path, json.dumps({**body, "item_id": draw(st.sampled_from(item_ids))}).encode()
    body["items"] = draw(st.lists(st.sampled_from(item_ids), min_size=1, max_size=30))
    body["explain"] = draw(st.booleans())
    if path == "/search":
        body["words"] = draw(TOKENS)
    return path, json.dumps(body).encode()


@st.composite
def broken_bytes(draw, item_ids):
    """Draw bytes that are hardly JSON."""
    kind = draw(st.sampled_from(["any", "cut", "changed", "deep", "digits", "half"]))
    if kind == "any":
        return draw(st.binary(max_size=200))
    if kind == "deep":
        return draw(st.sampled_from([b"[", b'{"a":', b'{"items":['])) * draw(
            st.integers(1, 100_000)
        )
    if kind == "digits":
        return b'{"items": [], "k": ' + b"9" * draw(st.integers(1, 9000)) + b"}"
    if kind == "half":
        return b'{"user_id": "\\ud8' + draw(st.binary(max_size=6)) + b'"}'
    body = draw(bodies(item_ids))
    place = draw(st.integers(0, len(body)))
    if kind == "cut":
        return body[:place]
    return body[:place] + draw(st.binary(min_size=1, max_size=3)) + body[place + 1 :]


@st.composite
def headers(draw):
    """Draw header lines: forged, of any bytes, many, or large."""
    lines = []
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["forged", "bytes", "many", "large"]))
        if kind == "forged":
            names = ["X-Forwarded-For", "X-Forwarded-Proto", "Authorization", "X-Request-Id"]
            names += ["Expect", "Transfer-Encoding", "Content-Length", "Upgrade", "Connection"]
            values = [b"9.9.9.9", b"100-continue", b"chunked", b"websocket", b"Upgrade", b"-1"]
            value = draw(st.sampled_from(values) | st.binary(max_size=30))
            lines.append(draw(st.sampled_from(names)).encode() + b": " + value)
        elif kind == "bytes":
            lines.append(draw(st.binary(max_size=60)))
        elif kind == "many":
            lines += [b"X-%d: y" % number for number in range(draw(st.sampled_from([20, 2000])))]
        else:
            lines.append(b"X-Large: " + b"a" * draw(st.sampled_from([1000, 60_000, 1_000_000])))
    return lines


@st.composite
def hostile_requests(draw, item_ids):
    """Draw the bytes of one request, and whether it is whole."""
    body = draw(bodies(item_ids) | bodies(item_ids) | broken_bytes(item_ids))
    path = draw(st.sampled_from(PATHS))
    kind = draw(st.sampled_from(["body", "costly", "costly", "get", "headers", "line", "half"]))
    if kind == "costly":
        path, body = draw(costly_bodies(item_ids))
    if kind == "line":
        return draw(st.binary(min_size=1, max_size=300)) + b"\r\n\r\n", False
    if kind == "get":
        words = draw(st.binary(max_size=40)).hex()
        target = draw(st.sampled_from([b"/items?words=", b"/items/", b"/users?limit=", b"/"]))
        escaped = "".join(f"%{words[n : n + 2]}" for n in range(0, len(words), 2)).encode()
        return b"GET %s%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % (
            target,
            escaped,
        ), True
    lines = [b"POST %s HTTP/1.1" % path.encode(), b"Host: x", b"Connection: close"]
    lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    if kind == "headers":
        lines += draw(headers())
    request = b"\r\n".join([*lines, b"", body])
    if kind == "half":
        return request[: draw(st.integers(1, len(request) - 1))], False
    return request, kind in ("body", "costly")
