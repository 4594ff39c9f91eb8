"""A shard's name is the same wherever the corpus lies, and never that of another shard."""

from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from shards.config import ConfigError
from shards.storage.files import FileIdentity, list_files
from shards.storage.names import find_shards, list_names, relative_names

folders = st.sampled_from(["", "part-0/", "part-1/", "part-1/deep/"])
shard_names = st.lists(
    st.builds("{}{}.tar".format, folders, st.sampled_from(["a", "b", "c d", "ü"])),
    min_size=1,
    max_size=8,
    unique=True,
)


def fill(root: Path, *names: str) -> list[str]:
    """Make empty files `names` below `root`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return list(names)


def identities(*urls: str) -> list[FileIdentity]:
    return [FileIdentity(url=url, size=1024, version="1") for url in urls]


def names_by(pattern: str) -> list[str]:
    return relative_names(pattern, list_files(pattern))


def test_a_name_is_the_path_below_the_fixed_part(tmp_path: Path) -> None:
    """A wildcard in a folder leaves that folder in the names.

    A folder and a glob of its files give the same names.
    """
    names = fill(tmp_path, "part-0/000.tar", "part-1/000.tar")
    assert names_by(str(tmp_path)) == names
    assert names_by(f"{tmp_path}/") == names
    assert names_by(f"{tmp_path}/*/000.tar") == names
    assert names_by(f"{tmp_path}/**/*.tar") == names
    assert names_by(f"{tmp_path}/part-{{0..1}}/000.tar") == names
    assert names_by(f"{tmp_path}/part-1/*.tar") == ["000.tar"]
    assert names_by(f"{tmp_path}/part-1/000.tar") == ["000.tar"]


def test_a_relative_pattern_gives_the_names_of_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder in which a command runs does not change the name of a shard."""
    names = fill(tmp_path / "corpus", "a.tar", "b.tar")
    monkeypatch.chdir(tmp_path)
    for pattern in ("corpus", "./corpus", "corpus/*.tar", "corpus/{a,b}.tar"):
        assert names_by(pattern) == names
    monkeypatch.chdir(tmp_path / "corpus")
    for pattern in (".", "*.tar", "./[ab].tar", "../corpus"):
        assert names_by(pattern) == names


def test_a_wildcard_right_below_the_root_of_the_file_system() -> None:
    """Shards of the same name on several disks are told apart by the disk."""
    files = identities("/disk-0/a.tar", "/disk-1/a.tar")
    assert relative_names("/disk-*/*.tar", files) == ["disk-0/a.tar", "disk-1/a.tar"]
    assert relative_names("/a.tar", identities("/a.tar")) == ["a.tar"]


def test_remote_shards_are_named_alike() -> None:
    """A bucket gives the names of its copy on disk, without the bucket."""
    files = identities("s3://corpus/train/part-0/a.tar", "s3://corpus/train/part-1/a.tar")
    expected = ["part-0/a.tar", "part-1/a.tar"]

    for pattern in (
        "s3://corpus/train/**/*.tar",
        "s3://corpus/train/",
        "s3://corpus/train/part-{0,1}/a.tar",
    ):
        assert relative_names(pattern, files) == expected

    # s3fs lists s3a:// as s3://
    assert relative_names("s3a://corpus/train/**/*.tar", files) == expected


@given(shard_names)
def test_names_of_a_tree_are_all_different(names: list[str]) -> None:
    """Every shard below a folder has a name of its own.

    The folder gives the file back for this name.
    """
    files = identities(*(f"/corpus/{name}" for name in names))
    assert relative_names("/corpus/**/*.tar", files) == names
    found = find_shards("/corpus/**/*.tar", files, names)
    assert {name: file.url for name, file in found.items()} == {
        name: f"/corpus/{name}" for name in names
    }


def test_two_shards_never_share_a_name() -> None:
    """A pattern that gives two files the same name is refused with the remedy."""
    files = identities("/one/a.tar", "/two/a.tar")
    with pytest.raises(
        ConfigError, match=r"two shards would both be called 'a.tar'; give their common folder"
    ):
        relative_names("/elsewhere/*.tar", files)


def test_shards_are_found_by_another_pattern() -> None:
    """A corpus that was labeled as `part-*/*.tar` is found as the folder above.

    One that was labeled as a folder is found by a deeper glob.
    """
    files = identities("/moved/corpus/part-0/a.tar", "/moved/corpus/part-1/a.tar")
    found = find_shards("/moved/**/*.tar", files, ["part-0/a.tar", "part-1/a.tar"])
    assert [file.url for file in found.values()] == [file.url for file in files]
    assert find_shards("/moved/corpus/part-1/*.tar", files[1:], ["a.tar"])["a.tar"] == files[1]


def test_an_exact_name_wins_over_one_that_ends_alike() -> None:
    """`a.tar` at the root is not confused with `part-0/a.tar`."""
    files = identities("/corpus/a.tar", "/corpus/part-0/a.tar")
    assert find_shards("/corpus", files, ["a.tar"])["a.tar"] == files[0]


@pytest.mark.parametrize(("name", "number"), [("missing.tar", 0), ("a.tar", 2)])
def test_a_shard_that_is_missing_or_ambiguous_is_named(name: str, number: int) -> None:
    """The error says which shard, how many files could be it, and which flag to look at."""
    files = identities("/corpus/part-0/a.tar", "/corpus/part-1/a.tar")
    with pytest.raises(
        ConfigError, match=rf"got {number} files for shard '{name}', expected one; check --shards"
    ):
        find_shards("/corpus", files, [name])


def test_part_of_a_file_name_is_no_match() -> None:
    """`extra-a.tar` is not the shard `a.tar`."""
    with pytest.raises(ConfigError, match=r"got 0 files for shard 'a.tar'"):
        find_shards("/corpus/*.tar", identities("/corpus/extra-a.tar"), ["a.tar"])


def test_names_in_a_folder(tmp_path: Path) -> None:
    """Hidden names are listed too, in order; a missing folder holds nothing."""
    fill(tmp_path, "b.tar", ".a.tar.tmp-1", "folder/c.tar")
    assert list_names(str(tmp_path)) == [".a.tar.tmp-1", "b.tar", "folder"]
    assert list_names(str(tmp_path / "missing")) == []


def test_names_in_a_remote_folder() -> None:
    """The names behind a URL are those that a local folder would give."""
    filesystem = MemoryFileSystem()
    for name in ("b.tar", ".a.tar.tmp-1", "folder/c.tar"):
        filesystem.pipe(f"/naming-test/{name}", b"")
    assert list_names("memory://naming-test") == [".a.tar.tmp-1", "b.tar", "folder"]
    assert list_names("memory://naming-test/missing") == []
