"""What tests/test_maintain.py holds of one PostgreSQL, on a cluster."""

from tests.citus.conftest import fresh  # noqa: F401
from tests.test_maintain import (  # noqa: F401
    test_a_dry_run_changes_nothing_and_says_what_a_run_then_does,
    test_a_long_read_holds_up_maintenance_but_not_ingest,
    test_a_run_after_another_has_nothing_to_do,
    test_old_idempotency_keys_are_forgotten_and_young_ones_kept,
    test_only_partitions_past_the_retention_of_their_table_are_dropped,
    test_partitions_are_made_ahead_for_every_table,
    test_rows_leave_the_default_partition_for_their_months,
    test_twice_at_once_under_load_does_the_work_once,
    test_under_load_no_event_is_refused_lost_doubled_or_out_of_sight,
    test_what_came_at_the_last_moment_is_put_where_it_belongs,
    test_what_is_cut_short_is_undone_and_done_by_the_next_run,
)
