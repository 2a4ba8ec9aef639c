"""The size of a Parquet file of somebody else, before it is read."""

from typing import Any

_CODECS = ("SNAPPY", "UNCOMPRESSED")
"""Snappy, which this package writes, cannot make a file more than about twenty times smaller; zstd can."""


def check_unpacked(metadata: Any, most: int) -> None:
    """Check what a file unpacks to, by what it says and by how it is packed.

    Args:
        metadata: of the open file.
        most: bytes of all columns.

    Raises:
        ValueError: for a larger file, or one that is packed so that it may be.
    """
    size = 0
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            size += column.total_uncompressed_size
            if column.compression not in _CODECS:
                raise ValueError(f"a column is packed with {column.compression}, expected snappy")
    if size > most:
        raise ValueError(f"it unpacks to {size >> 20} MiB, more than {most >> 20} MiB")
