"""What a sample may be called, one rule for reading and writing.

A member's name is `key.extension`: the key is the path up to the first dot of its last component,
as `webdataset` splits it, so `a/b.face.npy` is the field `face.npy` of `a/b`. Keys become names in
tables, reports and other people's file systems, so they are kept to what is harmless in all of
them. Names that `webdataset` or the Hugging Face loader would skip without a word (`__meta__`) are
refused for that very reason: nothing may be lost silently.
"""

import re

MAX_KEY_BYTES = 255
MAX_SPEAKER_CHARACTERS = 256

# Nearly every key; the rest is looked at rule by rule.
_PLAIN_KEY = re.compile(r"[A-Za-z0-9-][\w-]*(?:/[A-Za-z0-9-][\w-]*)*", re.ASCII)
# Controls, line separators, text direction overrides, lone surrogates, and the backslash: one
# system's separator.
_REFUSED_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\\\\]")


# Controls and line separators, which would break a table or a log in lines.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def speaker_problem(speaker: str) -> str | None:
    """What is wrong with a speaker's name, or None when it may be used."""
    if 0 < len(speaker) <= MAX_SPEAKER_CHARACTERS and not _CONTROL_CHARACTERS.search(speaker):
        return None
    return (
        f"speaker is '{printable(speaker, 80)}', expected 1 to {MAX_SPEAKER_CHARACTERS} printable "
        "characters"
    )


def split_name(name: str) -> tuple[str, str]:
    """Member name -> (key, extension in lower case); the extension is empty when there is no dot to
    split at.

    A leading `./`, as `tar cf shard.tar .` writes it, is no part of the key.
    """
    start = 0
    while name.startswith("./", start):
        start += 2
    dot = name.find(".", max(name.rfind("/") + 1, start))
    return (name[start:], "") if dot < 0 else (name[start:dot], name[dot + 1 :].lower())


def key_problem(key: str) -> tuple[str, str] | None:
    """(code, detail) of what is wrong with `key`, or None when it may be used."""
    if len(key) <= MAX_KEY_BYTES and _PLAIN_KEY.fullmatch(key):
        return None
    refused = _REFUSED_CHARACTERS.search(key)
    if refused:
        return "bad_key", f"key '{printable(key)}' holds the character {refused[0]!a}"
    if len(key.encode()) > MAX_KEY_BYTES:
        return (
            "key_too_long",
            f"key '{printable(key)}' has {len(key.encode())} bytes, at most {MAX_KEY_BYTES} may be",
        )
    components = key.split("/")
    if key.startswith("/"):
        return "absolute_key", f"key '{printable(key)}' begins with a slash"
    if ".." in components:
        return "parent_key", f"key '{printable(key)}' climbs out of its folder"
    if "." in key:
        return (
            "dotted_key",
            f"key '{printable(key)}' holds a dot; rename it, the first dot begins the extension",
        )
    if "" in components:
        return "bad_key", f"key '{printable(key)}' has an empty name in its path"
    if components[-1].startswith("__") or re.fullmatch("__.*__", components[0]):
        return (
            "reserved_key",
            f"key '{printable(key)}' looks like webdataset's metadata, which its readers skip",
        )
    return None


def printable(text: str, max_characters: int = 120) -> str:
    """`text` fit for a table or a terminal: what does not print is escaped, what is too long is
    cut.
    """
    shown = "".join(
        c if c.isprintable() and c != "\\" else ascii(c)[1:-1] for c in text[:max_characters]
    )
    return shown if len(text) <= max_characters else shown + "..."
