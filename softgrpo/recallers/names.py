"""The names of a pool: RecBole models in RecBole's spelling, and recallers from files as they are named."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from softgrpo.errors import RecallerError
from softgrpo.recallers.registry import UNSUPPORTED, check_recallers, known_recallers


def check_pool(names: Iterable[str], files: Collection[str] = ()) -> tuple[str, ...]:
    """Returns the names of a pool; upper and lower case may be mixed.

    Args:
        names: RecBole models and names of files.
        files: The names of the recallers that come from files.

    Raises:
        RecallerError: A name is unknown, not usable here, or given twice; or a file has the name of a RecBole model.
    """
    taken = {name.lower(): name for name in (*known_recallers(), *UNSUPPORTED)}
    for name in files:
        if name.lower() in taken:
            raise RecallerError(
                f"recall.files names a recaller '{name}'",
                f"RecBole has a model {taken[name.lower()]}, and a table must tell the two apart",
                f"Give the file another name, such as My{name}",
            )
    by_lower = {name.lower(): name for name in files}
    given = list(names)
    ours = iter(check_recallers(name for name in given if name.lower() not in by_lower))
    found = tuple(by_lower[name.lower()] if name.lower() in by_lower else next(ours) for name in given)
    if len(set(found)) < len(found):
        raise RecallerError(
            f"Recallers {', '.join(found)}", "A pool holds each recaller once", "Drop the repeated name"
        )
    return found
