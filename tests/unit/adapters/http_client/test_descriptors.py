"""A process without descriptors is told from a provider that cannot be reached."""

from __future__ import annotations

import errno
import socket

from ibex.adapters.http_client.descriptors import has_no_descriptor


def test_only_a_lack_of_descriptors_counts() -> None:
    """A name that is not found, or a refused connection, is the provider's."""
    assert has_no_descriptor(OSError(errno.EMFILE, "Too many open files"))
    assert has_no_descriptor(OSError(errno.ENFILE, "Too many open files in system"))
    assert not has_no_descriptor(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    assert not has_no_descriptor(socket.gaierror(socket.EAI_NONAME, "not known"))
