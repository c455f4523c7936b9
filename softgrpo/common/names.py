"""Names that settings, stages and recallers share. It imports nothing: `--help` and completions need it too."""

SNAPSHOT_NODE = "snapshot"
"""Node of a refit that holds the data set as it was then."""
TEXT = "Text"
"""The recaller by item texts; it is no model of RecBole."""
_FOLD = "-fold"


def name_fold(recaller: str, fold: int) -> str:
    """Returns what a recaller is called that was fitted without the tails of one part of the users.

    Args:
        recaller: Its name in the pool.
        fold: Number of the part, from 1.
    """
    return f"{recaller}{_FOLD}{fold}"


def recaller_and_fold(name: str) -> tuple[str, int]:
    """Returns what `name_fold` was given; a recaller of the pool itself has fold 0."""
    recaller, found, fold = name.rpartition(_FOLD)
    return (recaller, int(fold)) if found and fold.isdigit() else (name, 0)
