"""Pages for people: the report of a run, the comparison of several, their templates and what makes figures part of them."""
