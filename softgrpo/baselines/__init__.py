"""Every row of the table that is not the language model. It never reads a test target."""
