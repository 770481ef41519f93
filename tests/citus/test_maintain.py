"""What tests/test_maintain.py holds of one PostgreSQL, on a cluster."""

from tests.test_maintain import (  # noqa: F401
    test_a_long_read_holds_up_maintenance_but_not_ingest,
    test_old_idempotency_keys_are_forgotten_and_young_ones_kept,
    test_only_partitions_past_the_retention_of_their_table_are_dropped,
    test_rows_leave_the_default_partition_for_their_months,
    test_twice_at_once_under_load_does_the_work_once,
    test_under_load_no_event_is_refused_lost_doubled_or_out_of_sight,
    test_what_came_at_the_last_moment_is_put_where_it_belongs,
    test_what_is_cut_short_is_undone_and_done_by_the_next_run,
)
