"""The same interactions in every form that people have them in."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

Row = tuple[str, str, float, int]
"""User, item, rating, seconds since 1970."""
START = 1_600_000_000
ROWS: list[Row] = [
    (str(user), str(item), float(1 + (user * item) % 5), START + 3600 * user + 60 * ((item * 7) % 5))
    for user in range(1, 13)
    for item in range(1, 13)
    if (user + item) % 5
]
"""Twelve users, times that ascend in no file and are equal now and then, ids that sort as texts differently than as numbers."""
TITLES = {str(item): f"Film {item}, part one" for item in range(1, 13)}


def text(rows: Sequence[Sequence[object]], separator: str, header: str = "") -> str:
    """Returns rows as lines."""
    lines = [header] * bool(header) + [separator.join(map(str, row)) for row in rows]
    return "".join(f"{line}\n" for line in lines)


def _atomic(folder: Path) -> Path:
    place = folder / "shop"
    place.mkdir(parents=True)
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (place / "shop.inter").write_text(text(ROWS, "\t", header))
    (place / "shop.item").write_text(text(list(TITLES.items()), "\t", "item_id:token\ttitle:token_seq"))
    return place


def _csv(folder: Path) -> Path:
    rows = [(time * 1000, item, user) for user, item, _, time in ROWS]  # milliseconds, columns in another order
    folder.mkdir(parents=True)
    (folder / "interactions.csv").write_text(text(rows, ",", "Time,Item ID,uid"))
    (folder / "items.csv").write_text("item,title\n" + "".join(f'{item},"{title}"\n' for item, title in TITLES.items()))
    return folder


def _csv_gz(folder: Path) -> Path:
    rows = [(user, item, datetime.fromtimestamp(time, UTC).isoformat()) for user, item, _, time in ROWS]
    folder.mkdir(parents=True)
    (folder / "shop.csv.gz").write_bytes(gzip.compress(text(rows, ",", "user,item,date").encode()))
    return folder / "shop.csv.gz"


def _tsv(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = [(user, item, time * 1_000_000) for user, item, _, time in ROWS]
    (folder / "shop.tsv").write_text(text(rows, "\t", "customer_id\tproduct_id\tts"))
    return folder / "shop.tsv"


def _parquet(folder: Path) -> Path:
    folder.mkdir(parents=True)
    table = pd.DataFrame(ROWS, columns=["userId", "movieId", "rating", "timestamp"])
    table = table.astype({"userId": int, "movieId": float})  # decimal numbers that are whole
    table["timestamp"] = pd.to_datetime(table["timestamp"], unit="s")
    table.to_parquet(folder / "shop.parquet")
    return folder / "shop.parquet"


def _ratings_dat(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "ratings.dat").write_text(text(ROWS, "::"))
    names = [(item, title.replace("Film", "Filmé"), "Drama|War") for item, title in TITLES.items()]
    (folder / "movies.dat").write_bytes(text(names, "::").encode("iso-8859-1"))
    return folder


def _u_data(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "u.data").write_text(text(ROWS, "\t"))
    flags = [[int(genre in (5, 16)) for genre in range(19)]]
    lines = [(item, title, "01-Jan-1995", "", "http://x", *flags[0]) for item, title in TITLES.items()]
    (folder / "u.item").write_bytes(text(lines, "|").replace("Film", "Filmé").encode("iso-8859-1"))
    (folder / "u.user").write_text(text([(user, 24, "M", "artist", "12345") for user in range(1, 13)], "|"))
    return folder


def _ratings_csv(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "ratings.csv").write_text(text(ROWS, ",", "userId,movieId,rating,timestamp"))
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,2,fun,5\n")
    (folder / "links.csv").write_text("movieId,imdbId\n1,7\n")
    lines = "".join(f'{item},"{title}",Drama|War\n' for item, title in TITLES.items())
    (folder / "movies.csv").write_text("movieId,title,genres\n" + lines)
    return folder


def _amazon_2018(folder: Path) -> Path:
    folder.mkdir(parents=True)
    reviews = [
        {
            "overall": rating,
            "reviewerID": user,
            "asin": item,
            "unixReviewTime": time,
            "reviewText": 'a\nb"',
            "style": {"a": "b"},
        }
        for user, item, rating, time in ROWS
    ]
    lines = "".join(json.dumps(review) + "\n" for review in reviews)
    (folder / "Films_5.json.gz").write_bytes(gzip.compress(lines.encode()))
    metas = [{"asin": item, "title": title, "category": ["Drama", "War"]} for item, title in TITLES.items()]
    (folder / "meta_Films.json.gz").write_bytes(gzip.compress("".join(json.dumps(m) + "\n" for m in metas).encode()))
    return folder


def _amazon_2023(folder: Path) -> Path:
    folder.mkdir(parents=True)
    usual = {"title": "Good", "images": []}
    reviews = [
        usual | {"rating": rating, "asin": f"v{item}", "parent_asin": item, "user_id": user, "timestamp": 1000 * time}
        for user, item, rating, time in ROWS
    ]
    (folder / "Films.jsonl").write_text("".join(json.dumps(review) + "\n" for review in reviews))
    metas = [{"parent_asin": item, "title": title, "categories": ["Drama", "War"]} for item, title in TITLES.items()]
    (folder / "meta_Films.jsonl").write_text("".join(json.dumps(meta) + "\n" for meta in metas))
    return folder


FORMS: dict[str, Callable[[Path], Path]] = {
    "atomic": _atomic,
    "csv": _csv,
    "csv.gz": _csv_gz,
    "tsv": _tsv,
    "parquet": _parquet,
    "ratings.dat": _ratings_dat,
    "u.data": _u_data,
    "ratings.csv": _ratings_csv,
    "amazon 2018": _amazon_2018,
    "amazon 2023": _amazon_2023,
}
"""Writers of a dataset, in a folder that is not there; each returns the file or folder to name."""
