"""The report of an import or export."""

from ossy_event_store.streams.transfer_report import TransferReport


def test_a_report_without_time_has_no_rate():
    assert TransferReport(events=5).rate == 0


def test_a_report_has_events_a_second():
    assert TransferReport(events=10, seconds=4).rate == 2.5
