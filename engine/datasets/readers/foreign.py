"""Files that are mistaken for data: what they are, seen in their first bytes, and what to do about them."""

from __future__ import annotations

from pathlib import Path

from engine.datasets.lines import shown
from engine.errors import DataError

_UNPACK_XZ = "Unpack it first: unxz -k FILE"
_UTF16 = "Save it as UTF-8: iconv -f UTF-16 -t UTF-8 old > new"
_ARROW = (
    "Name the folder of the saved data set instead of this file, or write it as Parquet: "
    "pyarrow.parquet.write_table(table, 'new.parquet')."
)
_SHEET = "Save the sheet as CSV (UTF-8) and name that file."

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", "Save it as UTF-8: iconv -f UTF-32 -t UTF-8 old > new"),
    (b"\x00\x00\xfe\xff", "UTF-32 text", "Save it as UTF-8: iconv -f UTF-32 -t UTF-8 old > new"),
    (b"\xff\xfe", "UTF-16 text", _UTF16),
    (b"\xfe\xff", "UTF-16 text", _UTF16),
    (b"\x1f\x8b", "gzip-compressed", "Unpack it first: gunzip -k FILE"),
    (b"\xfd7zXZ\x00", "xz-compressed", _UNPACK_XZ),
    (b"\x28\xb5\x2f\xfd", "Zstandard-compressed", "Unpack it first: unzstd FILE"),
    (b"\x04\x22\x4d\x18", "LZ4-compressed", "Unpack it first: unlz4 FILE"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it first: 7z x FILE"),
    (b"Rar!", "a RAR archive", "Unpack it first: unrar x FILE"),
    (
        b"SQLite format 3\x00",
        "an SQLite database",
        "Write the rows as CSV: sqlite3 -header -csv FILE 'select …' > new.csv",
    ),
    (b"%PDF-", "a PDF document", "Take its text out, for example: pdftotext FILE new.txt"),
    (b"{\\rtf", "an RTF document", "Save it as plain text (UTF-8)."),
    (
        b"\xd0\xcf\x11\xe0",
        "an old Office document",
        "Save it as CSV (a sheet) or as plain text (a document), in UTF-8.",
    ),
    (b"ARROW1", "an Arrow (Feather) file", _ARROW),
    (b"FEA1", "an Arrow (Feather) file", _ARROW),
    (b"\xff\xff\xff\xff", "an Arrow stream", _ARROW),
    (b"Obj\x01", "an Avro file", "Write it as Parquet or JSON Lines."),
    (b"\x89HDF", "an HDF5 file", "Write it as Parquet or JSON Lines."),
    (b"\x93NUMPY", "a NumPy array", "Write the texts, not their numbers, as JSON Lines."),
    (b"GGUF\x03\x00", "a GGUF model", "Name the file with the rows to learn from."),
    (b"\x7fELF", "a program", "Name the file with the rows to learn from."),
    (b"\x89PNG", "an image", "finetui trains on text only."),
    (b"\xff\xd8\xff", "an image", "finetui trains on text only."),
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer",
        "The file itself was not downloaded: git lfs pull",
    ),
)
"""First bytes, what they say that the file is, and the remedy; the first that fits counts."""

_ZIPPED = {
    ".xlsx": ("an Excel workbook", _SHEET),
    ".xlsm": ("an Excel workbook", _SHEET),
    ".ods": ("a spreadsheet", _SHEET),
    ".docx": ("a Word document", "Save it as plain text (UTF-8)."),
    ".odt": ("a text document", "Save it as plain text (UTF-8)."),
    ".epub": ("an e-book", "Take its text out, for example: pandoc -t plain FILE -o new.txt"),
}
"""What is a ZIP archive inside."""


def refuse_foreign(path: Path, head: bytes) -> None:
    """Raise `DataError` if a file's first bytes are those of something that holds no rows, or hides them."""
    found = _foreign(path, head)
    if found is not None:
        what, remedy = found
        raise DataError(f"The data file is {what}", shown(path), (remedy,))


def _foreign(path: Path, head: bytes) -> tuple[str, str] | None:
    for magic, what, remedy in _MAGIC:
        if head.startswith(magic):
            return what, remedy
    if head.startswith(b"PK\x03\x04"):
        return _zipped(path, head)
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
        return "bzip2-compressed", "Unpack it first: bunzip2 -k FILE"
    if head[257:262] == b"ustar":
        return "a tar archive", "Unpack it first: tar xf FILE"
    if not head.strip(b"\0"):
        return "nothing but NULs", "It was not written whole, or the disk failed: copy or download it again."
    some = head[:512]
    if len(some) >= 8 and max(some[::2].count(0), some[1::2].count(0)) > 0.4 * (len(some) // 2):
        return "UTF-16 text", "Save it as UTF-8: iconv -f UTF-16LE -t UTF-8 old > new (or -f UTF-16BE)"
    return None


def _zipped(path: Path, head: bytes) -> tuple[str, str]:
    if path.suffix.lower() in _ZIPPED:
        return _ZIPPED[path.suffix.lower()]
    if b"xl/" in head and b"[Content_Types].xml" in head:
        return _ZIPPED[".xlsx"]
    if b"word/" in head and b"[Content_Types].xml" in head:
        return _ZIPPED[".docx"]
    return "a ZIP archive", "Unpack it first: unzip FILE"
