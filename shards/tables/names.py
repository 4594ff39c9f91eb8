"""What tables that workers commit are called."""


def is_table_name(name: str) -> bool:
    """Whether a file of a predictions folder is a table; hidden names are writers' temporary
    files.
    """
    return name.endswith(".parquet") and not name.startswith((".", "_"))
