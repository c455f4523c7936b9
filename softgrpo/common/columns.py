"""Every column name used in tables and files, once."""


class Columns:
    """Column names of the tables that stages exchange."""

    User = "user"
    Item = "item"
    Time = "time"
    Position = "position"
    Token = "token"
    Title = "title"
    Genres = "genres"

    Window = "window"
    Part = "part"
    Start = "start"
    End = "end"

    Recaller = "recaller"
    Items = "items"
    Scores = "scores"
    Score = "score"
