"""The decisions of IBEX, in pure Python.

Nothing here imports a third-party package, knows a wire format, reads a clock or draws a random number: time is
``clock.Clock``, ids are ``ids.IdSource``.

``proxying.proxy_request`` is the path of a request; read it first. ``docs/architecture.md`` names the other files on
it, in order. The packages are layers, each of which may import those below it:

* ``proxying``: one request to a provider, whatever its operation
* ``record``: what a request leaves behind, and its delivery to sessions and traces
* ``directives``: the versioned instructions of agents
* ``identity``: organizations, agents, tokens, permissions, limits
* ``freshness``: what may be served from a cache, and for how long
* ``errors``, ``clock``, ``ids``, ``value_object``, ``deadline``: the shared kernel
"""
