"""Freshness of cached identity and directives: the watch, the epoch and the cache (ADR 0045).

INVARIANT 1: No request is served more than ``BOUND_S`` after the commit of a change that forbids it.

INVARIANT 2: No live token is refused with 401.

Both hold under any single fault: a cut or stalled link, a paused, killed or restarted process, a restarted or
failed-over PostgreSQL, a flushed or failed-over Redis.

The pieces, each pure or behind a port:

* ``kinds``: the kinds of cached values, and a reading of an organization's *epoch*.
* ``epochs``: the port to the epochs, which every change replaces.
* ``change_log``: the port to the log of committed changes, and the *watch server*, which answers pings from it.
* ``watch``: the *watch* of one worker. A pong proves that the worker has received every change that was committed
  before it sent the ping.
* ``validity``: the time that the watch has confirmed, and the invalidations by its events.
* ``cache``: the cache of one kind. It serves an entry while it is valid, and fetches it otherwise.
* ``token_filter``: a Bloom filter of all live tokens, kept up to date by the watch.
* ``unknown_tokens``: refuses tokens that the filter excludes, after a pong.
"""
