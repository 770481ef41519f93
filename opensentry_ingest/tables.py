"""The tables of items, each partitioned by the month of `received_at`."""

ITEM_TABLES = ("events", "spans", "transactions", "ai_generations")
"""Spans come first, so that maintenance never drops a transaction before its spans."""
