"""64-bit keys that were met before, in 8 bytes each where a set of Python takes a hundred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_RECENT = 1 << 16


class Seen:
    """A set of keys: the recent ones in a set, the others in a sorted array that the set is merged into."""

    def __init__(self, limit: int | None = None) -> None:
        """Keys behind the first `limit` are not taken in."""
        self._limit = limit
        self._recent: set[int] = set()
        self._sorted: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        """Different keys; one that came again much later may count twice."""
        return len(self._recent) + (0 if self._sorted is None else len(self._sorted))

    def extend(self, keys: Sequence[int]) -> None:
        """Take keys in."""
        import numpy as np

        if self._limit is not None and len(self) + len(keys) > self._limit:
            keys = keys[: max(0, self._limit - len(self))]
        self._recent.update(keys)
        if len(self._recent) >= max(_RECENT, len(self) // 8):
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.unique(recent if self._sorted is None else np.concatenate((self._sorted, recent)))
            self._recent = set()

    def known(self, keys: Sequence[int]) -> list[bool]:
        """For each key, whether it was taken in."""
        import numpy as np

        found = [key in self._recent for key in keys]
        if self._sorted is None:
            return found
        wanted = np.array(keys, dtype=np.uint64)
        places = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
        same: list[bool] = (self._sorted[places] == wanted).tolist()
        return [recent or earlier for recent, earlier in zip(found, same, strict=True)]
