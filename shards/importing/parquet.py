"""Reading a Parquet table: its columns keep their meaning, but get the plainest type that has it.

Writers store the same texts as string, large_string, string_view or a dictionary, and Arrow's
functions know some of these better than others (`take` knows no string_view). So every column is
cast once, here, and nobody else has to know these types.
"""

import pyarrow as pa
import pyarrow.parquet as pq

from shards.config import ConfigError
from shards.importing.decoding import MAX_REMOTE_TABLE_BYTES
from shards.importing.table import ReadRows
from shards.storage.files import is_remote, read_bytes
from shards.storage.urls import local_path


def read_parquet(url: str) -> ReadRows:
    """Read the Parquet file at `url`.

    Raises ConfigError when it is not a Parquet file, when it is damaged, and when Arrow cannot read
    one of its types.
    """
    try:
        table = pq.ParquetFile(_open(url)).read()
        table = pa.Table.from_arrays(
            [column.cast(plain_type(column.type)) for column in table.columns],
            table.schema.names,
        )
        table.validate(full=True)
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(
            f"{url}: cannot be read as Parquet ({said}); write the table again, or save it as CSV"
        ) from error

    return ReadRows(table, (), {}, is_text=False)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The plainest type with the values of `kind`: string for a dictionary of large_string."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)))
    # A column of bytes may hold the media themselves. Several gigabytes of them fit only into the
    # large type, which counts by 64 bits.
    if pa.types.is_binary(kind) or pa.types.is_binary_view(kind):
        return pa.large_binary()
    return kind


def _open(url: str) -> pa.NativeFile:
    if is_remote(url):
        return pa.BufferReader(read_bytes(url, max_bytes=MAX_REMOTE_TABLE_BYTES))
    return pa.memory_map(local_path(url))
