"""The decisions of IBEX, in pure Python.

A request travels like this; every step is a name that can be found in this package:

1. ``proxy_request.ProxyRequest`` receives a ``IncomingRequest``: what a client sent, not yet believed.
2. ``admission.Admission`` answers who it is: ``cached_identity`` recalls the ``Principal`` behind a personal
   access token and the ``Agent`` behind an id, ``rate_limits.RateLimiter`` counts the request against its organization
   and brings the news by which both are confirmed, or else asked for anew at ``identity.TokenVerifier`` and
   ``AgentVerifier``. Each may refuse with an error from ``errors``.
3. The request's body is read only now, as a ``chat.ChatRequest``: understood where it must be, raw bytes elsewhere.
4. The same news tell whether the agent's directive is still the one that is remembered; ``directives.inject`` puts it
   among the messages.
5. ``providers.ProviderRegistry`` routes the model to a ``providers.Provider``, which answers.
6. ``completion`` folds the answer into usage, finish reason and a hash while it passes through.
7. ``recorder.Recorder`` makes one ``exchange.Exchange`` of it and puts that into the ``journal.Journal``
   before the response's last byte; observers (access log, metrics) hear of it.
8. ``deliver_exchanges.DeliverExchanges`` takes batches from the journal to ``sessions.SessionStore`` as checkpoints and
   to ``traces.TraceSink`` as traces, at least once; both sinks make that exactly once.

``manage_identity`` and ``manage_directives`` are what operators do. ``freshness`` says what may be served of what is
remembered; ``keep_fresh`` is auth's part in it. Nothing here imports a third-party package, reads a
clock or draws a random number: time is ``clock.Clock``, ids are ``ids.IdSource``.
"""
