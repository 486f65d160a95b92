"""The results that ranks report, four bytes a row."""

from array import array

import numpy as np
import numpy.typing as npt

from vidcap_cli.statuses import Status

_PAGE = 4096  # rows
_STATUSES = tuple(Status)


class Results:
    """The status of each row that has one, and the rank that reported it.

    Pages of rows are made when a row in them is first reported: the numbers of rows have no bound
    that is known here.
    """

    def __init__(self) -> None:
        self._pages: dict[int, array[int]] = {}

    def __getitem__(self, row: int) -> tuple[Status, int | None] | None:
        page = self._pages.get(row // _PAGE)
        packed = page[row % _PAGE] if page else 0
        if not packed:
            return None
        rank, status = divmod(packed - 1, len(_STATUSES))
        return _STATUSES[status], rank - 1 if rank else None

    def __setitem__(self, row: int, result: tuple[Status, int | None]) -> None:
        page = self._pages.get(row // _PAGE)
        if page is None:
            page = self._pages[row // _PAGE] = array("I", bytes(4 * _PAGE))
        status, rank = result
        place = 0 if rank is None else rank + 1
        page[row % _PAGE] = 1 + _STATUSES.index(status) + len(_STATUSES) * place

    def __delitem__(self, row: int) -> None:
        self._pages[row // _PAGE][row % _PAGE] = 0

    def beyond(self, done: npt.NDArray[np.bool_]) -> list[int]:
        """The rows that have a result and are not ``done``."""
        found: list[int] = []
        for number, page in self._pages.items():
            known = done[number * _PAGE : (number + 1) * _PAGE]
            there = np.frombuffer(page, np.uint32)[: len(known)] > 0
            found += (number * _PAGE + np.flatnonzero(there & ~known)).tolist()
        return found
