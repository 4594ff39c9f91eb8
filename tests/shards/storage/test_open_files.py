"""Few files stay open, whichever are asked for; another process opens its own."""

import os
import pickle
from pathlib import Path

from shards.storage.open_files import OpenFiles


def open_files_of(folder: Path) -> set[str]:
    """The names of the files below `folder` that this process holds open."""
    held = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    return {os.path.basename(path) for path in held if path.startswith(str(folder))}


def test_the_one_used_longest_ago_is_closed_first(tmp_path: Path) -> None:
    """Three of four files stay open, and none after the end.

    The kernel's own list says which are open.
    """
    urls = [str(tmp_path / name) for name in "abcd"]
    for url in urls:
        Path(url).write_text(url)

    with OpenFiles(3) as files:
        for url in (*urls[:3], urls[0]):
            assert files[url].read_at(0, 1000) == url.encode()
        assert open_files_of(tmp_path) == {"a", "b", "c"}

        files[urls[3]]
        assert open_files_of(tmp_path) == {"a", "c", "d"}
        assert files[urls[1]].read_at(0, 1000) == urls[1].encode()
        assert open_files_of(tmp_path) == {"a", "b", "d"}

    assert open_files_of(tmp_path) == set()


def test_a_copy_for_another_process_has_nothing_open(tmp_path: Path) -> None:
    """A pickled copy has only the limit, and opens its own files."""
    (tmp_path / "a").write_text("a")
    with OpenFiles(1) as files:
        files[str(tmp_path / "a")]
        copy = pickle.loads(pickle.dumps(files))
        assert copy[str(tmp_path / "a")] is not files[str(tmp_path / "a")]
        copy.__exit__(None, None, None)
