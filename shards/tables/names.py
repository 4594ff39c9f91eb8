"""The names of the tables that workers commit."""


def is_table_name(name: str) -> bool:
    """Whether a file in a folder of tables is a table, by its name."""
    # Names that begin with a dot are temporary files of writers.
    return name.endswith(".parquet") and not name.startswith((".", "_"))
