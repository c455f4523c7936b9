"""What surrounds one stage at work: its process, the GPU, retries, progress. It imports no mlflow."""
