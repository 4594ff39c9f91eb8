"""The names of the tables that workers commit."""

TABLE_SUFFIX = ".parquet"


def is_table_name(name: str, suffix: str = TABLE_SUFFIX) -> bool:
    """Whether a file in a folder of tables is a table, by its name."""
    # Names that begin with a dot are temporary files of writers.
    return name.endswith(suffix) and not name.startswith((".", "_"))
