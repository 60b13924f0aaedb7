"""The containers of rows, one file each, and which of them a file is."""

from __future__ import annotations

from engine.datasets.readers.base import BLOCK_ROWS, OnBytes, Reader, Record
from engine.datasets.readers.find import find_reader

__all__ = ["BLOCK_ROWS", "OnBytes", "Reader", "Record", "find_reader"]
