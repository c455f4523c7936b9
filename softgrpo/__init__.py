"""softgrpo: learn, for each user, how much to trust each recaller of a recommender system.

The science lives here and imports neither prefect nor mlflow; recbole is imported by one module only
(`softgrpo.recallers.recbole_adapter`), when a recaller is trained or loaded. `tasks` and `flows` wrap these functions.
"""

__version__ = "0.1.0"
