"""The decisions of IBEX, in pure Python.

No module here imports a third-party package, depends on a wire format, reads a clock or draws a random number: the
ports ``clock.Clock`` and ``ids.IdSource`` provide time and ids.

``proxying.proxy_request`` is the path of a request; read it first. ``docs/architecture.md`` names the other files on
it, in order. The packages are layers, each of which may import those below it:

* ``proxying``: one request to a provider, whatever its operation
* ``record``: the exchange that each request leaves, and its delivery to sessions and traces
* ``directives``: the versioned instructions of agents
* ``identity``: organizations, agents, tokens, permissions, limits
* ``freshness``: the caches, and for how long they may serve an entry
* ``errors``, ``clock``, ``ids``, ``value_object``, ``deadline``: the shared kernel
"""
