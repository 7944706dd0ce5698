"""Tests of shared memory that outlives its writer and that other processes read."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys

import pytest

from ibex.adapters.telemetry.shared_memory import SEGMENT_BYTES, SharedMemorySegment, create_shared_memory


def test_other_processes_read_the_current_values() -> None:
    """Each value has its name and labels. A series that is declared after the first read is visible too."""
    memory = mmap.mmap(-1, SEGMENT_BYTES)
    writer, reader = SharedMemorySegment(memory), SharedMemorySegment(memory)
    writer.slots_of("a", ("x",), 2)[1] = 7
    (first,) = reader.series()
    writer.slots_of("b", (), 1)[0] = -3
    writer.slots_of("a", ("x",), 2)[0] += 1

    assert (first.name, first.labels) == ("a", ("x",))
    assert [(series.name, list(reader.numbers(series))) for series in reader.series()] == [("a", [1, 7]), ("b", [-3])]


def test_the_next_process_continues_the_counters() -> None:
    """The counters keep their slots. A series of another size, as in a new version, gets slots of its own."""
    memory = mmap.mmap(-1, SEGMENT_BYTES)
    SharedMemorySegment(memory).slots_of("a", (), 2)[1] = 7
    successor = SharedMemorySegment(memory)

    assert successor.slots_of("a", (), 2).tolist() == [0, 7]
    assert successor.slots_of("a", (), 3).tolist() == [0, 0, 0]
    assert len(SharedMemorySegment(memory).series()) == 2


def test_segments_are_separate() -> None:
    """Each has its own slots and writer."""
    memory = mmap.mmap(-1, 2 * SEGMENT_BYTES)
    first, second = SharedMemorySegment(memory, 0), SharedMemorySegment(memory, 1)
    first.attach()
    first.heartbeat_ns = 5
    first.slots_of("a", (), 1)[0] = 1

    assert (first.pid, first.heartbeat_ns) == (os.getpid(), 5)
    assert (second.pid, second.heartbeat_ns) == (0, 0)
    assert not second.series()
    first.attach()
    assert first.heartbeat_ns == 0


def test_another_process_counts_into_the_same_memory() -> None:
    """The counts of a process remain after it is killed."""
    descriptor = os.memfd_create("metrics")
    os.ftruncate(descriptor, 2 * SEGMENT_BYTES)
    script = f"""if True:
        import mmap, os, signal
        from ibex.adapters.telemetry.shared_memory import SharedMemorySegment
        region = SharedMemorySegment(mmap.mmap({descriptor}, 0), 1)
        region.slots_of("a", ("x",), 1)[0] += 41
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", script], pass_fds=[descriptor], check=False)
    region = SharedMemorySegment(mmap.mmap(descriptor, 0), 1)
    os.close(descriptor)

    region.slots_of("a", ("x",), 1)[0] += 1

    (series,) = region.series()
    assert list(region.numbers(series)) == [42]


def test_a_full_segment_raises_no_error() -> None:
    """New series are not exported, and the existing ones continue."""
    region = SharedMemorySegment.private()
    kept = region.slots_of("kept", (), 1)
    for number in range(100):
        region.slots_of("long", ("n" * 9_999 + str(number),), 1)[0] += 1
    lost = region.slots_of("wide", (), 1 << 17)
    lost[5] += 1
    kept[0] += 1

    assert 10 < len([series for series in region.series() if series.name == "long"]) < 100
    assert not [series for series in region.series() if series.name == "wide"]
    assert region.slots_of("kept", (), 1)[0] == 1


def test_a_child_process_shares_memory_by_its_descriptor() -> None:
    """The parent reads the values that the child writes."""
    memory = create_shared_memory(2)
    write = "import sys; from ibex.adapters.telemetry.shared_memory import SharedMemorySegment\n"
    write += "SharedMemorySegment.all_of(int(sys.argv[1]))[1].slots_of('a', (), 1)[0] = 7"
    regions = SharedMemorySegment.all_of(memory)

    subprocess.run([sys.executable, "-c", write, str(memory)], pass_fds=(memory,), check=True)
    os.close(memory)

    assert [list(region.series()) for region in regions[:1]] == [[]]
    (series,) = regions[1].series()
    assert regions[1].numbers(series) == [7]


def test_without_anonymous_memory_the_metrics_are_in_a_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seccomp filter can refuse it, for example. The space in the file is reserved, so that writing cannot fail."""
    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)

    memory = create_shared_memory(2)

    try:
        assert len(SharedMemorySegment.all_of(memory)) == 2
        assert os.fstat(memory).st_blocks * 512 >= 2 * SEGMENT_BYTES
    finally:
        os.close(memory)


def test_without_either_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the size and the folder. One worker needs no shared memory."""
    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    monkeypatch.setattr(os, "posix_fallocate", refuse)

    with pytest.raises(OSError, match=r"metrics of 2 workers need 3,145,728 bytes .* or start one worker\."):
        create_shared_memory(2)


def refuse(*_: object) -> int:
    """Refuse like a system call without permission or space."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
