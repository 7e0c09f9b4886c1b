"""score and status: whole data sets labelled part by part, on one machine or on a Ray cluster, and resumed."""

from .job import Summary, score, status

__all__ = ["Summary", "score", "status"]
