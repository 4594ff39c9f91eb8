"""Which targets may be used for research only, because the license of what made them says so.

A model that has learned such targets may be used for research only too.
"""


def research_only_maker(features: str | None) -> str | None:
    """Who made acoustic descriptors of this kind, if its license is for research only.

    `features` are those of a panel's `objectives.acoustics`; None where a panel has none.
    """
    return None if features in (None, "builtin") else "openSMILE"
