"""Reading, filtering and cutting interactions."""
