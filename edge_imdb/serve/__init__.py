"""edge-imdb serve: Sentiment and FillMask behind HTTP, for the clients that people have.

From the request to the answer: ``protocol`` (the connection and its deadlines), ``gate`` (key, overload, drain, log,
metrics), ``app`` (the paths), ``parse`` (a body becomes texts and parameters), ``work`` (the queue and its workers).
``run`` starts and drains the whole. starlette, uvicorn and prometheus-client come with the extra ``serve``.
"""
