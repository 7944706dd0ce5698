"""The decisions of IBEX, in pure Python.

A request travels like this; every step is a name that can be found in this package:

1. ``complete_chat.CompleteChat`` receives a ``ChatCall``: what a client sent, not yet believed.
2. ``admit_caller.AdmitCaller`` answers who it is: ``identity.TokenVerifier`` turns a personal access token into a
   ``Principal``, ``identity.AgentVerifier`` turns an agent's id into an ``Agent``, ``rate_limits.RateLimiter`` counts
   the request against its organization. Each may refuse with an error from ``errors``.
3. The request's body is read only now, as a ``chat.ChatRequest``: understood where it must be, raw bytes elsewhere.
4. ``directives.DirectiveLookup`` finds the agent's directive, ``directives.inject`` puts it among the messages.
5. ``providers.ProviderRegistry`` routes the model to a ``providers.CompletionProvider``, which answers.
6. ``completion`` folds the answer into usage, finish reason and a hash while it passes through.
7. ``settle_exchange.SettleExchange`` makes one ``exchange.Exchange`` of it and puts that into the ``journal.Journal``
   before the response's last byte; observers (access log, metrics) hear of it.
8. ``deliver_exchanges.DeliverExchanges`` takes batches from the journal to ``sessions.SessionStore`` as checkpoints and
   to ``traces.TraceSink`` as traces, at least once; both sinks make that exactly once.

``manage_identity`` and ``manage_directives`` are what operators do. Nothing here imports a third-party package, reads a
clock or draws a random number: time is ``clock.Clock``, ids are ``ids.IdSource``.
"""
