"""The names that samples and speakers may have: one rule for reading and for writing.

A member's name is `key.extension`. The key is the path up to the first dot of its last component,
where `webdataset` splits it too: `a/b.face.npy` is the field `face.npy` of the sample `a/b`. Keys
become names in tables, reports and other people's file systems, so only keys that are harmless in
all of these are allowed. Names that `webdataset` or the Hugging Face loader would skip without a
word (`__meta__`) are refused, because nothing may be lost silently.
"""

import re

MAX_KEY_BYTES = 255
MAX_SPEAKER_CHARACTERS = 256

# Nearly every key matches this pattern, which is quick; other keys are checked rule by rule.
_PLAIN_KEY = re.compile(r"[A-Za-z0-9-][\w-]*(?:/[A-Za-z0-9-][\w-]*)*", re.ASCII)
# Control characters, line separators, overrides of the text direction, lone surrogates, and the
# backslash, which separates folders on Windows.
_REFUSED_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\\\\]")

# Control characters and line separators, which would break a table or a log into lines.
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
    """Split a member's name into its key and its extension, in lower case: `a.FLAC` -> (a, flac).

    The extension is empty when the name has no dot at which to split. A leading `./`, which
    `tar cf shard.tar .` writes, is not part of the key.
    """
    start = 0
    while name.startswith("./", start):
        start += 2

    # The first dot of the last component, and not a dot of the leading `./`.
    dot = name.find(".", max(name.rfind("/") + 1, start))
    return (name[start:], "") if dot < 0 else (name[start:dot], name[dot + 1 :].lower())


def key_problem(key: str) -> tuple[str, str] | None:
    """(code, detail) of what is wrong with `key`, or None when it may be used."""
    if len(key) <= MAX_KEY_BYTES and _PLAIN_KEY.fullmatch(key):
        return None

    # The characters come first: a lone surrogate cannot be encoded for the count of bytes.
    refused = _REFUSED_CHARACTERS.search(key)
    if refused:
        return (
            "bad_key",
            f"key '{printable(key)}' holds the character {refused[0]!a}, which is not allowed",
        )
    if len(key.encode()) > MAX_KEY_BYTES:
        return (
            "key_too_long",
            f"key '{printable(key)}' has {len(key.encode())} bytes, at most {MAX_KEY_BYTES} are "
            "allowed",
        )

    components = key.split("/")
    if key.startswith("/"):
        return (
            "absolute_key",
            f"key '{printable(key)}' begins with a slash, expected a relative path",
        )
    if ".." in components:
        return "parent_key", f"key '{printable(key)}' leads out of its folder by '..'"
    if "." in key:
        return (
            "dotted_key",
            f"key '{printable(key)}' holds a dot; rename it, because the extension begins at the "
            "first dot",
        )
    if "" in components:
        return "bad_key", f"key '{printable(key)}' has an empty name in its path, like a//b"
    if components[-1].startswith("__") or re.fullmatch("__.*__", components[0]):
        return (
            "reserved_key",
            f"key '{printable(key)}' looks like metadata of webdataset, which skips such names; "
            "rename it",
        )

    return None


def printable(text: str, max_characters: int = 120) -> str:
    """`text` in a form for tables and terminals.

    Characters that cannot be printed are escaped, and a text of more than `max_characters` is cut.
    """
    shown = "".join(
        c if c.isprintable() and c != "\\" else ascii(c)[1:-1] for c in text[:max_characters]
    )
    return shown if len(text) <= max_characters else shown + "..."
