"""Reading context switches and system calls."""

from __future__ import annotations

import os
import threading

from benchmarks.proxy.switches import INVOLUNTARY, LOOP, VOLUNTARY, read_calls, read_switches, switches_of, total

STATUS = """Name:\tpython
Threads:\t3
voluntary_ctxt_switches:\t1500
nonvoluntary_ctxt_switches:\t7
"""
TABLE = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.54    0.005012           3      1600           epoll_wait
 30.00    0.002000           2       900       100 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.008145           3      2500       100 total
"""


def test_voluntary_and_involuntary_switches_are_read() -> None:
    """The counts belong to one thread."""
    assert read_switches("writer", STATUS) == {("writer", VOLUNTARY): 1500, ("writer", INVOLUNTARY): 7}


def test_a_wait_counts_as_a_voluntary_switch() -> None:
    """The main thread is reported as the event loop."""
    before = switches_of([os.getpid()])
    thread = threading.Thread(target=threading.Event().wait, args=(0.01,))
    thread.start()
    thread.join()
    after = switches_of([os.getpid()])

    assert (after - before)[LOOP, VOLUNTARY] >= 1


def test_system_calls_are_counted_by_name() -> None:
    """Rows with and without errors are read. The row of totals is ignored."""
    assert read_calls(TABLE.splitlines()) == {"epoll_wait": 1600, "recvfrom": 900}


def test_the_total_is_the_sum_over_threads_and_kinds() -> None:
    """The table shows it last."""
    assert total({"a": {VOLUNTARY: 1.5, INVOLUNTARY: 0.5}, "b": {VOLUNTARY: 2.0}}) == 4.0
