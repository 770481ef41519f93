"""What is stored: every member in its column, unchanged; batches whole; defaults; and what PostgreSQL refuses."""

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import webtest
from psycopg.conninfo import make_conninfo

from opensentry_ingest import create_app, maintain
from opensentry_ingest.pool import Pool
from opensentry_ingest.store import Store
from opensentry_ingest.uuids import uuid7
from tests.support import AI_GENERATION, ERROR, MINIMAL, TABLES, TRANSACTION, Database, post

TEXT = "Größe 測試 🚀 'quoted' \"double\" \\ back\tslash\n" + "long " * 4000


def store(client: webtest.TestApp, database: Database, payload: Any) -> str:
    batch_id: str = post(client, database.key, payload).json["id"]
    return batch_id


def store_text(client: webtest.TestApp, database: Database, text: str) -> str:
    response = client.post(f"/v1/ingest?key={database.key}", text.encode())
    batch_id: str = response.json["id"]
    return batch_id


def test_every_member_of_an_error_arrives_in_its_column(client: webtest.TestApp, database: Database) -> None:
    frame = {
        "filename": "a.py",
        "function": TEXT,
        "module": "a",
        "absPath": "/srv/a.py",
        "lineno": 3,
        "colno": 7,
        "inApp": False,
        "contextLine": "raise",
        "preContext": ["a", "b"],
        "postContext": [],
        "vars": {"x": None},
    }
    breadcrumb = {"type": "http", "data": {"n": [1, 2.5, None]}, "timestamp": "any text", "new": True}
    item = {
        **ERROR,
        "level": "fatal",
        "exception": {"type": "E", "value": TEXT, "stacktrace": {"frames": [frame, {}]}},
        "breadcrumbs": [breadcrumb],
        "tags": {"": "", TEXT: TEXT},
        "traceId": "trace-abc-123",
        "spanId": TEXT,
        "fingerprint": ["{{ default }}", TEXT],
    }
    batch_id = store(client, database, item)
    (row,) = database.rows("events", batch_id)
    received_at = row.pop("received_at")
    assert row.pop("fingerprint") is not None  # The issue: what it is made of is the subject of other tests.
    assert abs((datetime.now(timezone.utc) - received_at).total_seconds()) < 600
    assert {name: str(value) if name in ("project_id", "batch_id") else value for name, value in row.items()} == {
        "project_id": database.project_id,
        "batch_id": batch_id,
        "position": 0,
        "timestamp": datetime(2026, 5, 30, 12, 0, 1, tzinfo=timezone.utc),
        "level": "fatal",
        "exception_type": "E",
        "exception_value": TEXT,
        "frames": [frame, {}],
        "message": "optional fallback message",
        "breadcrumbs": [breadcrumb],
        "tags": {"": "", TEXT: TEXT},
        "user": {"id": "user_123", "email": "dev@example.com"},
        "environment": "production",
        "release": "web@2.4.1",
        "trace_id": "trace-abc-123",
        "span_id": TEXT,
        "client_fingerprint": ["{{ default }}", TEXT],
        "extra": None,
    }


def test_every_member_of_a_transaction_arrives_in_its_column(client: webtest.TestApp, database: Database) -> None:
    item = {
        **TRANSACTION,
        "status": "cancelled",
        "release": TEXT,
        "spanId": "root-span-id",
        "parentSpanId": TEXT,
        "op": "http.server",
        "tags": {"": "", TEXT: TEXT},
        "user": {"id": "u"},
        "spans": [
            {**TRANSACTION["spans"][0], "startMs": 2**53 - 1, "status": "cancelled"},
            {"spanId": "2", "op": "", "durationMs": 0, "data": {"rows": 3}},
        ],
    }
    batch_id = store(client, database, item)
    (row,) = database.rows("transactions", batch_id)
    spans = database.rows("spans", batch_id)
    keys = {name: row.pop(name) for name in ("project_id", "batch_id", "position", "received_at")}
    assert row == {
        "timestamp": datetime(2026, 5, 30, 12, 0, 2, tzinfo=timezone.utc),
        "name": "GET /api/checkout",
        "trace_id": "trace-abc-123",
        "duration_ms": 245,
        "status": "cancelled",
        "environment": "production",
        "release": TEXT,
        "span_id": "root-span-id",
        "parent_span_id": TEXT,
        "op": "http.server",
        "tags": {"": "", TEXT: TEXT},
        "user": {"id": "u"},
        "extra": None,
    }
    assert spans == [
        {
            **keys,
            "span_index": 0,
            "span_id": "span-1",
            "parent_span_id": "root-span-id",
            "op": "db.query",
            "description": "SELECT * FROM orders",
            "duration_ms": 40,
            "start_ms": 2**53 - 1,
            "status": "cancelled",
            "extra": None,
        },
        {
            **keys,
            "span_index": 1,
            "span_id": "2",
            "parent_span_id": None,
            "op": "",
            "description": None,
            "duration_ms": 0,
            "start_ms": None,
            "status": None,
            "extra": {"data": {"rows": 3}},
        },
    ]


def test_every_member_of_a_generation_arrives_in_its_column(client: webtest.TestApp, database: Database) -> None:
    item = {
        **AI_GENERATION,
        "totalTokens": 2**53 - 1,
        "cachedInputTokens": 5,
        "cacheWriteTokens": 6,
        "status": "error",
        "spanId": "span-9",
        "user": {"id": "u"},
        "metadata": {"a": [None, {"b": 1}]},
        "release": "r",
    }
    batch_id = store(client, database, item)
    (row,) = database.rows("ai_generations", batch_id)
    for name in ("project_id", "batch_id", "position", "received_at"):
        row.pop(name)
    assert row == {
        "timestamp": datetime(2026, 5, 30, 12, 0, 3, tzinfo=timezone.utc),
        "provider": "openrouter",
        "model": "anthropic/claude-sonnet-4",
        "input_tokens": 1200,
        "output_tokens": 340,
        "total_tokens": 2**53 - 1,
        "cached_input_tokens": 5,
        "cache_write_tokens": 6,
        "input_cost_usd": None,
        "output_cost_usd": None,
        "total_cost_usd": Decimal("0.00482"),
        "latency_ms": 1820,
        "time_to_first_token_ms": 420,
        "status": "error",
        "trace_id": "trace-abc-123",
        "span_id": "span-9",
        "tags": {"feature": "chat"},
        "user": {"id": "u"},
        "metadata": {"a": [None, {"b": 1}]},
        "environment": "production",
        "release": "r",
        "extra": None,
    }


@pytest.mark.parametrize(
    "cost", ["0.1", "0.10", "0.000000000000000000001", "12345678901.123456789012345678901", "1e-7"]
)
def test_a_cost_is_stored_as_it_was_written(client: webtest.TestApp, database: Database, cost: str) -> None:
    text = '{"type": "ai_generation", "provider": "p", "model": "m", "inputTokens": 1, "inputCostUsd": COST}'.replace(
        "COST", cost
    )
    (row,) = database.rows("ai_generations", store_text(client, database, text))
    assert row["input_cost_usd"].as_tuple() == Decimal(cost).as_tuple()


@pytest.mark.parametrize(
    ("item", "table", "extra"),
    [
        ({**ERROR, "modules": ["a"], "n": None}, "events", {"modules": ["a"], "n": None}),
        (
            {"type": "error", "exception": {"value": "v", "mechanism": {"handled": False}}},
            "events",
            {"exception": {"mechanism": {"handled": False}}},
        ),
        (
            {"type": "error", "exception": {"module": "m", "stacktrace": {"frames": [], "registers": {}}}, "x": 1},
            "events",
            {"x": 1, "exception": {"module": "m", "stacktrace": {"registers": {}}}},
        ),
        ({**TRANSACTION, "measurements": {"a": 1}}, "transactions", {"measurements": {"a": 1}}),
        ({**AI_GENERATION, "spans": []}, "ai_generations", {"spans": []}),
    ],
)
def test_members_that_the_schema_does_not_know_are_kept(
    client: webtest.TestApp, database: Database, item: Any, table: str, extra: Any
) -> None:
    (row,) = database.rows(table, store(client, database, item))
    assert row["extra"] == extra


def test_what_is_absent_has_its_default(client: webtest.TestApp, database: Database) -> None:
    batch_id = store(
        client,
        database,
        [
            MINIMAL,
            {"type": "transaction", "name": "n", "traceId": "t", "durationMs": 1},
            {"type": "ai_generation", "provider": "p", "model": "m", "inputTokens": 7, "outputTokens": 5},
            {"type": "ai_generation", "provider": "p", "model": "m", "inputTokens": 7},
            {**MINIMAL, "message": "instead"},
            {"type": "error", "exception": {"value": "value"}, "message": "fallback"},
        ],
    )
    events = database.rows("events", batch_id)
    (transaction,) = database.rows("transactions", batch_id)
    generations = database.rows("ai_generations", batch_id)
    assert (events[0]["level"], transaction["status"], generations[0]["status"]) == ("error", "ok", "ok")
    assert [row["total_tokens"] for row in generations] == [12, 7]
    assert generations[1]["output_tokens"] is None
    assert all(row["timestamp"] == row["received_at"] for row in [*events, transaction, *generations])
    assert [row["exception_value"] for row in events] == [None, "instead", "value"]
    assert [row["message"] for row in events] == [None, "instead", "fallback"]


@pytest.mark.parametrize(
    ("written", "utc"),
    [
        ("2026-05-30", "2026-05-30T00:00:00+00:00"),
        ("2026-05-30T12:00", "2026-05-30T12:00:00+00:00"),
        ("2026-05-30T12:00:01", "2026-05-30T12:00:01+00:00"),
        ("2026-05-30T12:00:01.123456789Z", "2026-05-30T12:00:01.123457+00:00"),
        ("2026-05-30T12:00:01+05:30", "2026-05-30T06:30:01+00:00"),
        ("2026-05-30T12:00:01-0800", "2026-05-30T20:00:01+00:00"),
        ("2026-05-30T12:00+02", "2026-05-30T10:00:00+00:00"),
        ("2024-02-29", "2024-02-29T00:00:00+00:00"),
    ],
)
def test_a_timestamp_without_an_offset_is_utc(
    client: webtest.TestApp, database: Database, written: str, utc: str
) -> None:
    (row,) = database.rows("events", store(client, database, {**MINIMAL, "timestamp": written}))
    assert row["timestamp"] == datetime.fromisoformat(utc)


def test_the_time_zone_of_the_connection_does_not_matter(database: Database) -> None:
    app = create_app(make_conninfo(database.service, options="-c timezone=Asia/Tokyo"))
    batch_id = store(webtest.TestApp(app), database, {**MINIMAL, "timestamp": "2026-05-30T12:00"})
    (row,) = database.rows("events", batch_id)
    assert row["timestamp"] == datetime(2026, 5, 30, 12, tzinfo=timezone.utc)
    app.close()


@pytest.mark.parametrize("day", ["2026-02-30", "2025-02-29T12:00:00Z", "2026-04-31", "0000-01-01"])
def test_a_day_that_does_not_exist_is_an_invalid_payload(client: webtest.TestApp, database: Database, day: str) -> None:
    before = database.counts()
    response = post(client, database.key, [MINIMAL, {**MINIMAL, "timestamp": day}], expect_errors=True)
    assert (response.status_int, response.json) == (400, {"error": "Invalid payload"})
    assert database.counts() == before


@pytest.mark.parametrize("cost", ["-1e-400", "-0.0000000001", "1e400", "-1"])
def test_a_cost_that_is_negative_or_endless_is_an_invalid_payload(
    client: webtest.TestApp, database: Database, cost: str
) -> None:
    # -1e-400 is -0.0 to a parser of floats, and so to the schema, but not to PostgreSQL.
    text = '{"type": "ai_generation", "provider": "p", "model": "m", "inputTokens": 1, "inputCostUsd": COST}'
    body = text.replace("COST", cost).encode()
    response = client.post(f"/v1/ingest?key={database.key}", body, expect_errors=True)
    assert (response.status_int, response.json) == (400, {"error": "Invalid payload"})


@pytest.mark.parametrize(
    ("table", "value"),
    [
        *(("events", "level = 'Error'"), ("transactions", "status = 'failed'"), ("transactions", "duration_ms = -1")),
        *(("spans", "status = ''"), ("spans", "duration_ms = -1"), ("spans", "start_ms = -1")),
        *(("ai_generations", "provider = ''"), ("ai_generations", "model = ''"), ("ai_generations", "status = 'x'")),
        *(
            ("ai_generations", f"{column} = -1")
            for column in (
                *("input_tokens", "output_tokens", "total_tokens", "cached_input_tokens", "cache_write_tokens"),
                *("input_cost_usd", "output_cost_usd", "total_cost_usd", "latency_ms", "time_to_first_token_ms"),
            )
        ),
    ],
)
@pytest.mark.parametrize("partition", ["", "_2031_05"], ids=["of today", "made later"])
def test_the_tables_refuse_what_the_schema_does(database: Database, table: str, value: str, partition: str) -> None:
    column, _, text = value.partition(" = ")
    with psycopg.connect(database.owner) as connection:
        connection.execute(
            "SELECT opensentry.ingest(%s, gen_random_uuid(), %s)",
            (database.key, json.dumps([ERROR, TRANSACTION, AI_GENERATION])),
        )
        if partition:
            connection.execute(
                "SELECT opensentry.build_partition(%s, '2031-05-01 00:00Z'), "
                "opensentry.attach_partition(%s, '2031-05-01 00:00Z')",
                (table, table),
            )
            connection.execute(f"UPDATE opensentry.{table} SET received_at = '2031-05-05 00:00Z'")
            assert connection.execute(f"SELECT count(*) > 0 FROM opensentry.{table}{partition}").fetchone() == (True,)
        with pytest.raises(psycopg.errors.CheckViolation, match=f"{table}_values"):
            connection.execute(f"UPDATE opensentry.{table} SET {column} = {text}")
        connection.rollback()


@pytest.mark.parametrize(("number", "stored"), [("245", 245), ("245.0", 245), ("2.45e2", 245), ("-0.0", 0)])
def test_an_integer_may_be_written_as_a_decimal(
    client: webtest.TestApp, database: Database, number: str, stored: int
) -> None:
    text = '{"type": "transaction", "name": "n", "traceId": "t", "durationMs": NUMBER}'.replace("NUMBER", number)
    (row,) = database.rows("transactions", store_text(client, database, text))
    assert row["duration_ms"] == stored


@pytest.mark.parametrize("count", [1, 20])
def test_a_batch_keeps_its_order(client: webtest.TestApp, database: Database, count: int) -> None:
    kinds = [ERROR, TRANSACTION, AI_GENERATION]
    batch = [{**kinds[n % 3], "release": str(n)} for n in range(count)]
    batch_id = store(client, database, batch)
    rows = [row for table in TABLES if table != "spans" for row in database.rows(table, batch_id)]
    assert sorted((row["position"], row["release"]) for row in rows) == [(n, str(n)) for n in range(count)]
    assert [row["position"] for row in database.rows("spans", batch_id)] == list(range(1, count, 3))


@pytest.mark.parametrize("count", [0, 21])
def test_a_batch_of_another_size_is_refused(client: webtest.TestApp, database: Database, count: int) -> None:
    before = database.counts()
    response = post(client, database.key, [MINIMAL] * count, expect_errors=True)
    assert (response.status_int, response.json) == (400, {"error": "Invalid payload"})
    assert database.counts() == before


@pytest.mark.parametrize("place", [0, 7, 19])
@pytest.mark.parametrize("bad", [{"type": "error"}, {**MINIMAL, "timestamp": "2026-02-30"}, 1])
def test_a_batch_is_stored_whole_or_not_at_all(
    client: webtest.TestApp, database: Database, place: int, bad: Any
) -> None:
    before = database.counts()
    batch: list[Any] = [ERROR, TRANSACTION] * 10
    batch[place] = bad
    assert post(client, database.key, batch, expect_errors=True).status_int == 400
    assert database.counts() == before


def test_items_go_to_the_project_of_the_key(client: webtest.TestApp, database: Database) -> None:
    (other,) = database.fetch(
        "WITH p AS (INSERT INTO opensentry.projects (name) VALUES (gen_random_uuid()::text) RETURNING id) "
        "INSERT INTO opensentry.project_keys (public_key, project_id) "
        "SELECT replace(id::text, '-', ''), id FROM p RETURNING *"
    )
    batch_id = post(client, other["public_key"], MINIMAL).json["id"]
    assert database.rows("events", batch_id)[0]["project_id"] == other["project_id"]


def test_a_row_of_a_month_without_a_partition_is_kept(client: webtest.TestApp, database: Database) -> None:
    months = database.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'opensentry.events'::regclass"
    )
    assert len(months) == 5
    present = f"opensentry.events_{datetime.now(timezone.utc):%Y_%m}"
    assert present in {row["name"] for row in months}
    database.fetch(f"DROP TABLE {present}")
    batch_id = store(client, database, MINIMAL)
    assert database.fetch("SELECT 1 FROM opensentry.events_default WHERE batch_id = %s", batch_id)
    database.fetch("DELETE FROM opensentry.events_default")
    with psycopg.connect(database.owner, autocommit=True) as connection:
        maintain.maintain(connection, {}, lambda _: None)


def test_the_service_may_call_ingest_and_nothing_else(database: Database) -> None:
    tables = database.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'opensentry'::regnamespace AND relkind IN ('r', 'p')"
    )
    assert {"projects", "project_keys", "idempotency_keys", "migrations", *TABLES} <= {row["relname"] for row in tables}
    with psycopg.connect(database.service, autocommit=True) as connection:
        for table in (row["relname"] for row in tables):
            (column,) = [
                row["attname"]
                for row in database.fetch(
                    "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1",
                    f"opensentry.{table}",
                )
            ]
            for statement in (
                f"SELECT FROM opensentry.{table}",
                f"INSERT INTO opensentry.{table} DEFAULT VALUES",
                f"UPDATE opensentry.{table} SET {column} = DEFAULT",
                f"DELETE FROM opensentry.{table}",
                f"TRUNCATE opensentry.{table}",
                f"DROP TABLE opensentry.{table}",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)
        for statement in (
            "CREATE TABLE opensentry.mine ()",
            "SELECT opensentry.build_partition('events', now())",
            "CREATE ROLE other",
            "SELECT pg_read_file('/etc/passwd')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
        result = connection.execute(
            "SELECT opensentry.ingest(%s, %s, %s)", (database.key, uuid7(), json.dumps(MINIMAL))
        ).fetchone()
    assert result is not None


def test_of_the_functions_the_group_may_execute_ingest_and_anyone_else_none(database: Database) -> None:
    rows = database.fetch(
        "SELECT proname, has_function_privilege('public', oid, 'EXECUTE') AS anyone, "
        "has_function_privilege('opensentry_ingest', oid, 'EXECUTE') AS service "
        "FROM pg_proc WHERE pronamespace = 'opensentry'::regnamespace"
    )
    assert len(rows) > 1
    assert not any(row["anyone"] for row in rows)
    assert [row["proname"] for row in rows if row["service"]] == ["ingest"]


@pytest.fixture
def pool(database: Database) -> Iterator[Pool]:
    pool = Pool(database.service, 2, 5)
    yield pool
    pool.close()


def is_stored_once(pool: Pool, database: Database, idempotency_key: str | None) -> bool:
    before = database.counts()["events"]
    batch_id = uuid7()
    assert Store(pool).ingest(database.key, batch_id, json.dumps([MINIMAL]), idempotency_key) == batch_id
    return len(database.rows("events", batch_id)) == 1 and database.counts()["events"] == before + 1


@pytest.mark.parametrize("idempotency_key", [None, "forgotten"])
@pytest.mark.parametrize("statement", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_a_batch_is_stored_once_if_postgresql_forgot_the_prepared_statement(
    pool: Pool, database: Database, statement: str, idempotency_key: str | None
) -> None:
    for number in range(3):
        key = idempotency_key and f"{idempotency_key} {statement} {number}"
        assert is_stored_once(pool, database, key)
        with pool.connection() as connection:
            connection.execute(statement)
    assert is_stored_once(pool, database, None)


@pytest.mark.parametrize("idempotency_key", [None, "changed"])
def test_a_batch_is_stored_once_if_the_result_type_has_changed(
    pool: Pool, database: Database, idempotency_key: str | None
) -> None:
    def store_twice(tag: str) -> None:
        """Store over both connections."""
        key = idempotency_key and f"{idempotency_key} {tag}"
        with pool.connection():
            assert is_stored_once(pool, database, key)
        assert is_stored_once(pool, database, key and key + " again")

    store_twice("before")
    database.fetch("CREATE SCHEMA original")
    database.fetch("ALTER FUNCTION opensentry.ingest SET SCHEMA original")
    try:
        database.fetch(
            "CREATE FUNCTION opensentry.ingest(text, uuid, jsonb, text DEFAULT NULL) RETURNS text LANGUAGE sql "
            "SECURITY DEFINER AS 'SELECT original.ingest($1, $2, $3, $4)::text'"
        )
        store_twice("text")
    finally:
        database.fetch("DROP FUNCTION opensentry.ingest")
        database.fetch("ALTER FUNCTION original.ingest SET SCHEMA opensentry")
        database.fetch("DROP SCHEMA original")
    store_twice("after")


def test_batch_ids_are_version_7_and_grow_with_time() -> None:
    ids = [uuid7() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(id) == 36 and id[14] == "7" and id[19] in "89ab" for id in ids)
    assert [id[:13] for id in ids] == sorted(id[:13] for id in ids)
