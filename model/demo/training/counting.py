"""Numbers and plurals: `two cats`, `three red circles`."""

NUMBERS: dict[int, tuple[str, ...]] = {2: ("two", "two", "two", "2", "a pair of"), 3: ("three", "three", "three", "3")}
"""Wordings of a number. The model itself uses the first one."""
_IRREGULAR = {"fish": "fish", "snowman": "snowmen", "slice of pizza": "slices of pizza"}
_WITH_ES = ("s", "x", "sh", "ch")


def plural(noun: str) -> str:
    """Return the plural of a noun of the demo's world, such as `butterflies` for `butterfly`."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(_WITH_ES) else f"{noun}s"


def has_plural(noun: str) -> bool:
    """Return whether a name of a thing names one thing: `cherries` and `pair of cherries` do not."""
    return not noun.endswith("ies")
