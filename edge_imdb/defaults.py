"""BASE, DATA and TARGETS: what is trained, on what, where nothing else is said, and the CPUs that int8 can be for."""

BASE = "distilbert/distilbert-base-uncased"
DATA = "stanfordnlp/imdb"
# Bits of the weights. A CPU without VNNI adds pairs of u8 x s8 products in 16 bits, where weights of eight bits
# overflow: the same review would get another score there. Seven fit everywhere.
TARGETS = {"portable": 7, "avx2": 7, "avx512-vnni": 8, "arm64": 8}
