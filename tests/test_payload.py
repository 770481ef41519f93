"""The payload: strict JSON (RFC 8259), text that PostgreSQL cannot hold, numbers, and deep nesting."""

import json
from decimal import Decimal
from typing import Any

import pytest
import webtest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from opensentry_ingest import create_app, errors, payload
from tests.support import Database

BAD = "\ufffd"


def post(client: webtest.TestApp, database: Database, data: bytes, **keywords: Any) -> webtest.TestResponse:
    return client.post(f"/v1/ingest?key={database.key}", data, expect_errors=True, **keywords)


def event(extra: str) -> bytes:
    """Return an error item with an unknown member that has this JSON text as its value."""
    return b'{"type": "error", "exception": {}, "extra": ' + extra.encode() + b"}"


def stored(client: webtest.TestApp, database: Database, data: bytes) -> dict[str, Any]:
    """Post an error item; return its row."""
    response = post(client, database, data)
    assert response.status_int == 202, response.body
    (row,) = database.rows("events", response.json["id"])
    return row


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "nothing",
        "NaN",
        "Infinity",
        "-Infinity",
        "[1,]",
        '{"a": 1,}',
        "[1] // comment",
        "/* comment */ [1]",
        "{'a': 1}",
        "{a: 1}",
        "[01]",
        "[+1]",
        "[.5]",
        "[5.]",
        "[1e]",
        "[0x10]",
        "[1_000]",
        '["\t"]',
        '["\n"]',
        '["\x00"]',
        '["\\x41"]',
        '["\\u12"]',
        '["\\u 123"]',
        '["\\u+123"]',
        '["unfinished]',
        '["\\"]',
        "[1] [2]",
        "[1]\x00",
        "\x0c[1]",
        "\xa0[1]",
        "[",
        "]",
        '{"a"}',
        "\ufeff\ufeff[1]",
        "True",
        "\u0661",
    ],
)
def test_what_is_not_json_is_refused(client: webtest.TestApp, database: Database, text: str) -> None:
    for data in (text.encode(), event(text) if text.strip() else b""):
        response = post(client, database, data)
        assert (response.status_int, response.body) == (400, b'{"error": "Invalid JSON"}'), data


@pytest.mark.parametrize(
    "data",
    [
        event('"x"').replace(b"x", b"\xff"),
        event('"x"').replace(b"x", b"\xc3"),
        # An overlong form, a surrogate, and a code point above the last.
        event('"x"').replace(b"x", b"\xc0\xaf"),
        event('"x"').replace(b"x", b"\xed\xa0\x80"),
        event('"x"').replace(b"x", b"\xf4\x90\x80\x80"),
        event('"é"').decode().encode("latin-1"),
        event('"x"').decode().encode("utf-16"),
        event('"x"').decode().encode("utf-16-be"),
        event('"x"').decode().encode("utf-32"),
    ],
)
def test_bytes_that_are_not_utf_8_are_refused(client: webtest.TestApp, database: Database, data: bytes) -> None:
    response = post(client, database, data)
    assert (response.status_int, response.body) == (400, b'{"error": "Invalid JSON"}')


@pytest.mark.parametrize(
    "media_type", ["application/json", "text/plain;charset=UTF-8", "text/plain;charset=utf-16", "image/png", "x", ""]
)
def test_utf_8_is_read_with_or_without_a_byte_order_mark_whatever_the_content_type(
    client: webtest.TestApp, database: Database, media_type: str
) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        response = post(client, database, mark + event('"日本 😀"'), headers={"Content-Type": media_type})
        assert response.status_int == 202
        assert database.rows("events", response.json["id"])[0]["extra"] == {"extra": "日本 😀"}


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        ("\\u0000", BAD),
        ("a\\u0000b\\u0000", f"a{BAD}b{BAD}"),
        ("\\ud800", BAD),
        ("\\uDFFF", BAD),
        ("\\udc00\\ud800", BAD + BAD),
        ("\\ud800\\ud83d\\ude00", BAD + "😀"),
        ("\\ud83d\\ude00\\ude00", "😀" + BAD),
        ("\\ud800x\\udc00", f"{BAD}x{BAD}"),
        ("\\ud83d\\uDE00", "😀"),
        # An escaped backslash starts no escape.
        ("\\\\u0000", "\\u0000"),
        ("\\\\\\u0000", "\\" + BAD),
        ("\\\\\\\\ud800", "\\\\ud800"),
        ("\\u005cu0000", "\\u0000"),
        ("\\ud800\\\\udc00", BAD + "\\udc00"),
        ("\\u0001\\u007f\\uffff\\ufffe", "\x01\x7f\uffff\ufffe"),
    ],
)
def test_what_postgresql_cannot_hold_is_stored_as_a_replacement_character(
    client: webtest.TestApp, database: Database, escaped: str, text: str
) -> None:
    data = (
        '{"type": "error", "exception": {"value": "%s", "stacktrace": {"frames": [{"function": "%s"}]}},'
        ' "tags": {"%s": "%s"}, "%s": [{"%s": "%s"}]}' % ((escaped,) * 7)
    ).encode()
    row = stored(client, database, data)
    assert row["exception_value"] == text
    assert row["frames"] == [{"function": text}]
    assert row["tags"] == {text: text}
    assert row["extra"] == {text: [{text: text}]}


def test_the_last_of_names_that_become_equal_is_kept(client: webtest.TestApp, database: Database) -> None:
    row = stored(client, database, event('{"\\u0000": 1, "\\ud800": 2, "x": 3}'))
    assert row["extra"] == {"extra": {BAD: 2, "x": 3}}


@pytest.mark.parametrize(
    "number",
    [
        "0",
        "-0",
        "-0.0",
        "0E-10",
        "0e+00",
        "1e400",
        "-1E-400",
        "1e308",
        "5e-324",
        "1e999",
        "1" * 4000,
        "0.1" + "0" * 999,
    ],
)
def test_a_number_is_kept_digit_for_digit(client: webtest.TestApp, database: Database, number: str) -> None:
    response = post(client, database, event(number))
    (row,) = database.fetch(
        "SELECT (extra -> 'extra')::text AS text FROM opensentry.events WHERE batch_id = %s", response.json["id"]
    )
    assert Decimal(row["text"]) == Decimal(number)


@pytest.mark.parametrize("number", ["1e1000", "1e131071", "0e-16383", "0e-99999", "1e" + "9" * 5000, "1" * 5000])
def test_a_number_that_is_too_long_without_its_exponent_is_refused(
    client: webtest.TestApp, database: Database, number: str
) -> None:
    generation = '{"type": "ai_generation", "provider": "p", "model": "m", "inputTokens": 1, "totalCostUsd": NUMBER}'
    for data in (event(number), event("-" + number), generation.replace("NUMBER", number).encode()):
        response = post(client, database, data)
        assert (response.status_int, response.body) == (400, b'{"error": "Invalid JSON"}')


def test_no_row_is_much_longer_than_its_request(client: webtest.TestApp, database: Database) -> None:
    # PostgreSQL expands exponents, and no SELECT, COPY or dump can read a row of more than 1 GiB.
    for number in ("1e308", "1e999", "0e-999"):
        data = event("[" + ",".join([number] * (262_000 // (len(number) + 1))) + "]")
        response = post(client, database, data)
        (row,) = database.fetch(
            "SELECT length(e::text) AS length FROM opensentry.events AS e WHERE batch_id = %s", response.json["id"]
        )
        assert row["length"] < 200 * len(data) < 2**30 // 10


@pytest.mark.parametrize("unit", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("depth", [100, 900, 5_000, 100_000])
def test_nesting_of_any_depth_is_stored_or_refused(
    client: webtest.TestApp, database: Database, unit: str, depth: int
) -> None:
    close = {"[": "]", '{"a":': "}", '[{"a":': "}]"}[unit]
    data = unit * depth + "1" + close * depth
    expected = 202 if depth == 100 else 400
    for text in (event(data), data.encode()):
        response = post(client, database, text)
        if len(text) > 262_144:
            assert response.status_int == 413
        elif depth == 900 or text != event(data):
            assert response.status_int in (202, 400)
        else:
            assert response.status_int == expected
    assert post(client, database, event("1")).status_int == 202


def test_nesting_that_only_postgresql_finds_too_deep_is_an_invalid_payload(
    database: Database,
) -> None:
    # CPython's own limit differs between versions. With a small stack PostgreSQL's limit is lower than all of them.
    app = create_app(make_conninfo(database.owner, options="-c max_stack_depth=100kB"))
    response = post(webtest.TestApp(app), database, event("[" * 800 + "]" * 800))
    app.close()
    assert (response.status_int, response.body) == (400, b'{"error": "Invalid payload"}')


def test_the_last_of_duplicate_members_is_used(client: webtest.TestApp, database: Database) -> None:
    data = b'{"type": 5, "type": "error", "exception": 5, "exception": {"value": "a", "value": "b"}, "x": 1, "x": 2}'
    row = stored(client, database, data)
    assert (row["exception_value"], row["extra"]) == ("b", {"x": 2})
    response = post(client, database, b'{"type": "error", "exception": {}, "exception": 5}')
    assert (response.status_int, response.body) == (400, b'{"error": "Invalid payload"}')


@pytest.mark.parametrize(
    "name",
    ["__proto__", "constructor", "toString", "__class__", "$ref", "$id", "", " ", "a/b~c", "'; DROP TABLE x; --", "%s"],
)
def test_no_member_name_has_a_special_meaning(client: webtest.TestApp, database: Database, name: str) -> None:
    value = {name: {name: "1"}}
    data = {"type": "error", "exception": {name: 1}, "tags": {name: "1"}, name: value}
    row = stored(client, database, json.dumps(data).encode())
    assert row["tags"] == {name: "1"}
    assert row["extra"] == {name: value, "exception": {name: 1}}


def test_the_message_of_a_parse_error_says_where_and_quotes_nothing() -> None:
    for data in (b'{"secret": secret}', b'["secret\xff"]', b"[secret]", b'["secret", 1e9999]', b'["secret", NaN]'):
        with pytest.raises(errors.InvalidJSON) as caught:
            payload.parse(data)
        assert "secret" not in str(caught.value)
        assert str(caught.value)


NUMBERS: dict[str, tuple[Any, ...]] = {
    "strict": (payload._number, payload._number),
    "lenient": (payload._number_or_text,),
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def read_and_written(text: str, numbers: str) -> tuple[object, ...]:
    """Return what a text is parsed as and how that is written, with every digit, or what it is refused with."""
    try:
        value = payload.decoder(*NUMBERS[numbers])(text)
        # What is parsed strictly goes to PostgreSQL as it came.
        written = payload.encode([value]) if numbers == "lenient" else "null"
        return repr(value), json.loads(written, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        return type(error), str(error)


def check_same_without_msgspec(text: str, numbers: str) -> None:
    assert payload.msgspec
    found = read_and_written(text, numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload, "msgspec", None)
        assert read_and_written(text, numbers) == found


@given(VALUES, st.sampled_from(sorted(NUMBERS)))
def test_msgspec_reads_and_writes_what_the_standard_library_does(value: Any, numbers: str) -> None:
    check_same_without_msgspec(json.dumps(value), numbers)


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "nul",
            "NaN",
            "[1,]",
            " [1] ",
            "\x0b[1]",
            "[]]",
            '{"a"}',
            "{1: 2}",
            '{"a": 1, "a": 2}',
            '{"\\u0061": 1}',
        ),
        *("[0, -0, -0.0, 1e5, 1E+5, 1E-5, 1e15, 1e16, 1e22, 5e-324]", "01", "+1", "1.", ".5", "-"),
        *("1e400", "-1e400", "-1e-400", "0.1e-400", "1e1000", "1e-9999", "1" * 400, "1" * 4000, "1" * 5000),
        *(f"[{2**53 + 1}, {2**63}, {2**64 - 1}, {2**64}, -{2**64}]", f"{10**30}"),
        *('["\\ud83d\\ude00", "\\/", "\x7f", "\u2028", "\\u001f"]', '"a\tb"', '"a\nb"', '"a\\"', "'a'"),
        *("[" * 900 + "]" * 900, "[" * 100_000),
    ],
    ids=lambda text: text[:20],
)
def test_msgspec_refuses_what_the_standard_library_does(text: str, numbers: str) -> None:
    check_same_without_msgspec(text, numbers)
