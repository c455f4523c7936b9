"""Recallers: who they are (`registry`), how they score (`model`, `similarity`), how RecBole trains them (`recbole_*`).

Only the modules named `recbole_*` import recbole; everything else may be imported without it.
"""
