"""Faults on cue, and the campaign that draws them at random.

``python -m tests.faults --help`` lists the parts of the campaign; each takes a seed, says what it
did in a table, and exits with 1 when a row was lost, done twice or wrong, or anything was left.

::

    readers.py    readers for decoder processes that fail on cue
    inject/       loaded by every Python process of a disturbed run: the fake model, the
                  stand-in for msrun, and deaths at a chosen file operation
    scene.py      a table of small videos, the command that captions it, the undisturbed result
    moments.py    how far a run is, who takes part in it, and what it has done, by its files
    account.py    what was done, and what came of it
    kills.py      runs that are killed at random until they finish
    damage.py     bit flips, vanished folders and videos
    disks.py      disks that are full or read-only on cue
    mutants.py    mutated videos and tables
"""

from .readers import KilledWhileStarting, Unloadable, clip, ignores_interrupt, read

__all__ = ["KilledWhileStarting", "Unloadable", "clip", "ignores_interrupt", "read"]
