"""What each SDK sends is stored, once, and as what it means."""

from pathlib import Path

from tests import support
from tests.sdks import rows
from tests.sdks.conftest import CLIENTS, SDK, Do, dsn, metric, package, run
from tests.support import Database, Server

TEXT = "a \u2603 in winter"


def test_an_exception_is_stored_with_its_causes_and_its_context(do: Do, database: Database) -> None:
    do("exception")
    rows.check_exception(rows.one(database, "events"))


def test_a_message_is_stored(do: Do, database: Database) -> None:
    do(f"message {TEXT}")
    rows.check_message(rows.one(database, "events"), TEXT)


def test_a_transaction_is_stored_with_its_spans(sdk: SDK, do: Do, database: Database) -> None:
    do("transaction")
    row = rows.one(database, "transactions")
    rows.check_transaction(row, database.rows("spans", row["batch_id"]), measured=sdk.name == "python-debian")


def test_an_event_that_is_sent_twice_is_stored_once(do: Do, server: Server, database: Database) -> None:
    accepted = metric(server, 'opensentry_ingest_items_total{type="error"}')
    do("twice")
    assert metric(server, 'opensentry_ingest_items_total{type="error"}') == accepted + 2
    assert rows.one(database, "events")["message"] == "twice"


def test_an_sdk_sends_again_after_a_503(sdk: SDK, database: Database, proxy: support.Proxy, tmp_path: Path) -> None:
    environ = {"OPENSENTRY_DATABASE_TIMEOUT": "0.5"}
    with (
        support.gunicorn(proxy.conninfo, tmp_path / "log", environ=environ) as server,
        sdk.start(dsn(server, database)) as do,
    ):
        do("message before")
        proxy.stop()
        do("message during")
        support.wait_until(lambda: "status=503" in server.log.read_text())
        proxy.start()

        def recovered() -> bool:
            do("message after")
            return bool(database.fetch("SELECT 1 FROM opensentry.events WHERE message = 'after'"))

        # Some send nothing until Retry-After has passed.
        support.wait_until(recovered, 60)
    messages = database.fetch("SELECT DISTINCT message FROM opensentry.events ORDER BY message")
    # None of them keeps what met the 503.
    assert [row["message"] for row in messages] == ["after", "before"]


def test_spans_that_are_streamed_are_skipped_and_counted(
    node_modules: Path, server: Server, database: Database
) -> None:
    skipped = metric(server, 'opensentry_ingest_skipped_total{type="span"}')
    command = [support.tool("node"), str(CLIENTS / "node.mjs"), "default"]
    with run(command, dsn(server, database)) as do:
        do("transaction")
        do(f"message {TEXT}")
    assert metric(server, 'opensentry_ingest_skipped_total{type="span"}') > skipped
    assert database.counts() == {"events": 1, "transactions": 0, "spans": 0, "ai_generations": 0}


def test_the_sdk_before_sentry_ruby_posts_to_store(server: Server, database: Database) -> None:
    package("ruby-sentry-raven")
    with run([support.tool("ruby"), str(CLIENTS / "raven.rb")], dsn(server, database)) as do:
        do("exception")
        do(f"message {TEXT}")
        do("twice")
    exception, message, twice = database.fetch("SELECT * FROM opensentry.events ORDER BY received_at")
    rows.check_exception(exception)
    rows.check_message(message, TEXT)
    assert twice["message"] == "twice"
