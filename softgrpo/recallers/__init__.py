"""All that makes or reads candidate lists. Only the modules `recbole_*` import RecBole."""
