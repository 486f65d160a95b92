"""What the model said of a row: the text, what is to be known of it, which of two is kept."""

from dataclasses import dataclass, replace

from vidcap_cli.engine import Generated
from vidcap_cli.repeats import is_repetitive
from vidcap_cli.statuses import Flag


@dataclass(frozen=True, slots=True)
class Said:
    """A caption, as ``text`` and as it was ``generated``; an empty one is none."""

    text: str
    generated: Generated
    flags: tuple[Flag, ...] = ()

    @classmethod
    def of(cls, text: str, generated: Generated) -> "Said":
        """A caption with its flags."""
        cut = (Flag.CUT,) if generated.finish_reason == "length" else ()
        repetitive = (Flag.REPETITIVE,) if is_repetitive(text) else ()
        return cls(text, generated, cut + repetitive)

    @property
    def is_repetitive(self) -> bool:
        """Whether it says the same again and again."""
        return Flag.REPETITIVE in self.flags

    def retried(self, second: "Said | None") -> "Said":
        """The better of this one and its ``second`` try: that, unless it says nothing or repeats
        itself as well, or there is none because it failed.
        """
        better = second if second and second.text and not second.is_repetitive else self
        return replace(better, flags=(*better.flags, Flag.RETRIED))
