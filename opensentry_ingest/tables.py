"""The tables that hold what clients send, each partitioned by month of `received_at`."""

ITEM_TABLES = ("events", "spans", "transactions", "ai_generations")
"""Spans come before transactions, so that maintenance drops no transaction before its spans."""
