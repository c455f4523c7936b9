"""A view of MLflow's runs table, stored in the experiment, that shows single recallers against mixtures: one line a run.

MLflow's page lists it under Views, and a link opens it. The page of MLflow 3.17 reads it from a tag of the experiment: JSON with a
name, two times and the state, which is `deflate;` and zlib's output in base64 of JSON. The page ignores the view where the address
has a filter or an order besides.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from softgrpo.pipeline.store import LocalStore
from softgrpo.tasks.tracking.connection import Tracking, insert, store_errors
from softgrpo.tasks.tracking.headline import GRPO, RESULT, SFT, SINGLE, STATIC, VS_SINGLE, VS_STATIC
from softgrpo.tasks.tracking.pages import VIEW_TAG, view_id

COMPRESSED = "deflate;"
NEWEST_FIRST = "attributes.start_time"
TAG_CHARACTERS = 5000
"""What every MLflow stores in a tag of an experiment."""
ALWAYS = {"attributes.`Run Name`": 186, "runDateAndNestInfo": 98}
"""Columns that are always there and come first, by their names on the page, and their widths in pixels."""
GAINS = {VS_STATIC: 150, VS_SINGLE: 128}
"""They come next, so that they are seen while MLflow's assistant pane, which is open at first, takes a part of the window."""
NUMBERS = {SINGLE: 132, STATIC: 130, GRPO: 128}
"""With the others they fit into a window of 1280 pixels once that pane is closed."""
OTHER_WIDTH, TEXT_WIDTH = 100, 250


def metric_column(name: str) -> str:
    """Returns what the page calls the column of a metric."""
    return f"metrics.`{name}`"


def tag_column(name: str) -> str:
    """Returns what the page calls the column of a tag."""
    return f"tags.`{name}`"


def view_state(k: int, recallers: Sequence[str]) -> dict[str, Any]:
    """Returns the state of the page.

    Args:
        k: Cut-off; runs of another one are not shown.
        recallers: Which have a column each.
    """
    gains = {tag_column(name): width for name, width in GAINS.items()}
    widths = {metric_column(name): width for name, width in NUMBERS.items()}
    widths |= {metric_column(name): OTHER_WIDTH for name in (SFT, *(f"{RESULT}/{recaller}" for recaller in recallers))}
    widths |= {tag_column("changed settings"): TEXT_WIDTH}
    order = ALWAYS | gains | widths
    return {
        "searchFilter": f"tags.stage = 'pipeline' AND params.`fusion.k` = '{k}' AND metrics.`{GRPO}` >= 0",
        "orderByKey": NEWEST_FIRST,
        "orderByAsc": False,
        "selectedColumns": [*gains, *widths],
        "columnOrder": list(order),
        "columnWidths": order,
    }


def encode_view(name: str, state: Mapping[str, Any], moment: int) -> str:
    """Returns the text of the tag.

    Args:
        name: What the list of views shows.
        state: See `view_state`.
        moment: When the view was made, in ms.
    """
    packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)
    text = COMPRESSED + base64.b64encode(packed).decode()
    return json.dumps({"name": name, "createdAt": moment, "updatedAt": moment, "state": text}, separators=(",", ":"))


def decode_view(text: str) -> dict[str, Any] | None:
    """Returns the state in a tag, None where the tag is no view that can be read."""
    try:
        packed = json.loads(text)["state"]
        plain = zlib.decompress(base64.b64decode(packed.removeprefix(COMPRESSED), validate=True))
        state = json.loads(plain)
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error):
        return None
    return state if isinstance(state, dict) else None


def columns_of(text: str | None) -> list[str]:
    """Returns the recallers that have a column in a stored view."""
    state = decode_view(text) if text is not None else None
    known = state.get("selectedColumns", []) if state is not None else []
    begin, fixed = f"metrics.`{RESULT}/", {metric_column(name) for name in (SINGLE, STATIC, SFT, GRPO)}
    return [
        column.removeprefix(begin).removesuffix("`")
        for column in known
        if column.startswith(begin) and column not in fixed
    ]


def keep_view(tracking: Tracking, local: LocalStore, k: int, recallers: Sequence[str]) -> None:
    """Stores the view in the experiment unless it is there and has a column for each recaller.

    The columns of recallers that are there stay, as long as a tag of MLflow holds them all. Where it does not, the recallers of
    this run have a column each, and where even these are too many, no recaller has.

    Args:
        tracking: An open connection.
        local: Gives the lock that keeps runs of one output folder from dropping each other's columns. Runs of different folders
            on one server can do so if they end at the same moment; the next run with such a recaller adds its column again.
        k: Cut-off of the run.
        recallers: Its pool.

    Raises:
        StoreError: MLflow refuses.
    """
    with local.lock("saved-view"), store_errors(tracking.uri):
        insert(lambda: _add_columns(tracking, k, recallers))


def _add_columns(tracking: Tracking, k: int, recallers: Sequence[str]) -> None:
    """Reads the view, and stores it with the missing columns if there are any; see `keep_view`."""
    name = VIEW_TAG + view_id(k)
    text = tracking.client.get_experiment(tracking.experiment_id).tags.get(name)
    known = columns_of(text)
    if text is not None and set(recallers) <= set(known):
        return
    moment, title = int(time.time() * 1000), f"Single against multi, NDCG@{k}"
    pools = (list(dict.fromkeys([*known, *recallers])), recallers, ())
    views = (encode_view(title, view_state(k, pool), moment) for pool in pools)
    view = next(view for view in views if len(view) <= TAG_CHARACTERS)
    tracking.client.set_experiment_tag(tracking.experiment_id, name, view)
