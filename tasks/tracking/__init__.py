"""MLflow as the durable index of runs and stages; the only importer of mlflow."""
