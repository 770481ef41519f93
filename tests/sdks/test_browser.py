"""What only browsers do: they send while a page goes away, and keep what they cannot send."""

from playwright.sync_api import Browser

from tests import support
from tests.sdks.conftest import dsn, opened, skipped
from tests.support import Database, Server


def stored(database: Database, message: str) -> bool:
    return bool(database.fetch("SELECT 1 FROM opensentry.events WHERE message = %s", message))


def test_a_page_that_goes_away_still_sends(browser: Browser, origin: str, server: Server, database: Database) -> None:
    with opened(browser, origin) as page:
        page.evaluate("dsn => start(dsn)", dsn(server, database))
        # The SDK fetches with `keepalive`.
        page.evaluate("() => { Sentry.captureMessage('leaving'); location = 'about:blank'; }")
        page.wait_for_url("about:blank")
        support.wait_until(lambda: stored(database, "leaving"))


def test_a_report_of_what_was_dropped_is_skipped_and_counted(
    browser: Browser, origin: str, server: Server, database: Database
) -> None:
    before = skipped(server, "client_report")
    with opened(browser, origin) as page:
        page.evaluate("dsn => start(dsn, {sampleRate: 0})", dsn(server, database))
        page.evaluate("Sentry.captureMessage('dropped')")
        page.goto("about:blank")
        support.wait_until(lambda: skipped(server, "client_report") == before + 1)
    assert not stored(database, "dropped")


def test_what_a_page_could_not_send_is_sent_by_the_next_one(
    browser: Browser, origin: str, server: Server, database: Database
) -> None:
    with opened(browser, origin) as page:
        page.evaluate("dsn => startOffline(dsn)", dsn(server, database))
        page.context.set_offline(True)
        page.evaluate("() => { Sentry.captureMessage('offline', 'warning'); }")
        page.wait_for_function(
            """async () => (await indexedDB.databases()).length > 0 && await new Promise(resolve => {
                const opening = indexedDB.open("sentry-offline");
                opening.onsuccess = () => {
                    const counting = opening.result.transaction("queue").objectStore("queue").count();
                    counting.onsuccess = () => { opening.result.close(); resolve(counting.result > 0); };
                };
            })"""
        )
        assert not stored(database, "offline")
        page.context.set_offline(False)
        page.reload()
        page.evaluate("dsn => startOffline(dsn)", dsn(server, database))
        support.wait_until(lambda: stored(database, "offline"), 60)


def test_a_page_that_is_loaded_is_a_transaction(
    browser: Browser, origin: str, server: Server, database: Database
) -> None:
    with opened(browser, origin) as page:
        page.evaluate("dsn => start(dsn, {integrations: [Sentry.browserTracingIntegration()]})", dsn(server, database))
        support.wait_until(lambda: database.counts()["transactions"])
    (row,) = database.fetch("SELECT * FROM opensentry.transactions WHERE op = 'pageload'")
    # The SDK's own name for it. With `traceLifecycle: "static"` it is the path.
    assert (row["name"], row["release"], row["environment"]) == ("Pageload", "shop@1.2.3", "testing")
    assert row["extra"]["contexts"]["trace"]["data"]["url.path"] == "/page.html"
    assert row["duration_ms"] > 0
    spans = database.rows("spans", row["batch_id"])
    assert {"DNS lookup", "Load event"} <= {span["description"] for span in spans}
    assert {span["parent_span_id"] for span in spans} == {row["span_id"]}
