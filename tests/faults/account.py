"""The account of a campaign: what was done to runs, and what came of it."""

import signal
from collections import Counter
from dataclasses import dataclass, field

KINDS = (
    "rows lost",
    "captioned twice after commit",
    "committed twice",
    "different tables",
    "processes left",
    "files left",
    "tracebacks",
    "other exit codes",
    "runs that did not finish",
)


@dataclass(slots=True)
class Account:
    """What was done to runs, and what came of it; everything in ``wrong`` should be empty."""

    lives: int = 0
    commands: int = 0
    kills: int = 0
    tried_again: int = 0
    done: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    real_msrun: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)

    def note(self, role: str, number: int, when: str, *, kills: bool, real: bool) -> None:
        """A signal was delivered."""
        self.done[role, signal.Signals(number).name.removeprefix("SIG"), when] += 1
        self.kills += kills
        self.real_msrun += kills and real

    def fault(self, kind: str, words: str) -> None:
        """Something came out as it must not."""
        self.wrong[kind] += 1
        self.details.append(f"{kind}: {words}")


def summary(account: Account) -> str:
    """The table of a campaign."""
    names = ("KILL", "TERM", "INT", "STOP")
    lines = [f"{'':10}{'moment':14}" + "".join(f"{name:>7}" for name in names)]
    for role, when in sorted({(role, when) for role, _, when in account.done}):
        counts = "".join(f"{account.done[role, name, when]:7}" for name in names)
        lines.append(f"{role:10}{when:14}{counts}")
    lines.append(
        f"{account.kills} kills ({account.real_msrun} of them under the real msrun) in "
        f"{account.commands} commands of {account.lives} runs; {account.tried_again} runs had "
        "rows that were tried again"
    )
    lines += [f"{kind}: {account.wrong[kind]}" for kind in KINDS]
    return "\n".join([*lines, *account.details])
