"""What the model said of a row: the text, what is to be known of it, which of two is kept.

Of a row that is asked several questions the answers go into one column of its part, as JSON.
"""

import json
from collections.abc import Mapping
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

    def retried(self, second: "Said | Exception") -> "Said":
        """The better of this one and its ``second`` try: that, unless it failed, says nothing, or
        repeats itself as well.
        """
        good = isinstance(second, Said) and second.text and not second.is_repetitive
        better = second if isinstance(second, Said) and good else self
        return replace(better, flags=(*better.flags, Flag.RETRIED))


def as_json(questions: Mapping[str, str], said: Mapping[int, Said | Exception]) -> str:
    """What was said to each of ``questions``, by name: text (null where there is none), finish
    reason, flags, number of tokens, mean log-probability, and the question. ``said`` goes by their
    numbers.
    """
    found: dict[str, dict[str, object]] = {}
    for number, (name, question) in enumerate(questions.items()):
        answer = said.get(number)
        if isinstance(answer, Said):
            new = answer.generated
            found[name] = {
                "text": answer.text or None,
                "finish_reason": new.finish_reason,
                "flags": ",".join(answer.flags) or None,
                "new_tokens": len(new.ids),
                "logprob": None if new.logprob is None else round(new.logprob, 6),
                "prompt": question,
            }
        else:
            found[name] = {"text": None, "prompt": question}
    return json.dumps(found, ensure_ascii=False)
