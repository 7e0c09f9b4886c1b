"""Schedule: how many tokens of a text stay after each layer."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError

# A text of up to this many tokens, including special tokens, keeps all of them. In a short text every token counts,
# and dropping some would save little time.
AT_LEAST = 64


@dataclass(frozen=True)
class Schedule:
    """Token dropping: the share of a text's tokens that stay after the attention of each layer.

    *Shape:* ``kept`` has one share for each layer but the last, of which only some rows are computed. Those tokens stay
    that receive most attention in the layer, summed over heads and queries, and ``[CLS]`` always does. Source: Goyal
    et al. 2020, "PoWER-BERT: Accelerating BERT Inference via Progressive Word-vector Elimination", section 3.

    Raises UsageError if a share is not over 0 and at most 1, or larger than that of the layer before.
    """

    kept: tuple[float, ...]

    def __post_init__(self) -> None:
        before = 1.0
        for share in self.kept:
            if not 0 < share <= before:
                raise UsageError(
                    f"A schedule of token dropping is {self}: each share must be over 0 and at most the one before, "
                    "and the first at most 1."
                )
            before = share

    def __str__(self) -> str:
        return ",".join(f"{share:g}" for share in self.kept)

    @staticmethod
    def parse(text: str) -> Schedule:
        """Parse what ``str`` of a schedule returns, such as ``0.75,0.5,0.25``. Raises UsageError.

        >>> Schedule.parse("1,0.5").kept
        (1.0, 0.5)
        """
        try:
            shares = tuple(float(part) for part in text.split(","))
        except ValueError:
            raise UsageError(
                f"The schedule {text!r} is not a list of shares: give one number for each layer but the last, such as "
                "0.75,0.5,0.3,0.2,0.15."
            ) from None
        return Schedule(shares)

    def check(self, layers: int) -> None:
        """Raise UsageError unless there is a share for each of the ``layers`` of a model but the last."""
        if len(self.kept) != layers - 1:
            raise UsageError(
                f"The schedule {self} has {len(self.kept)} shares, and a model of {layers} layers needs {layers - 1}: "
                "one for each layer but the last."
            )
