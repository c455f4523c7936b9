"""Prefect's and MLflow's servers and databases: whether they answer, what they are, and who may ask them."""
