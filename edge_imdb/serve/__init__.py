"""edge-imdb serve: Sentiment and FillMask behind HTTP, for existing clients.

A request passes these modules, in this order: ``protocol`` (the connection and its deadlines), ``proxy`` (the path, and
what a proxy says about the client), ``guard`` (key, overload, drain, log, metrics), ``app`` (the paths), ``encoding``
(the body's bytes), the ``http`` module of a task or ``tokens`` (from a body to texts and parameters), ``work`` (the
queue and its workers). ``run`` starts the server and drains it. starlette, uvicorn and prometheus-client come with the
extra ``serve``.
"""
