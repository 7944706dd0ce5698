"""Tests that a lack of file descriptors is distinguished from an unreachable provider."""

from __future__ import annotations

import errno
import socket

from ibex.adapters.http_client.descriptors import has_no_descriptor


def test_only_descriptor_limits_count_as_a_lack_of_descriptors() -> None:
    """An unknown host name or a refused connection does not count."""
    assert has_no_descriptor(OSError(errno.EMFILE, "Too many open files"))
    assert has_no_descriptor(OSError(errno.ENFILE, "Too many open files in system"))
    assert not has_no_descriptor(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    assert not has_no_descriptor(socket.gaierror(socket.EAI_NONAME, "not known"))
