"""This process and this machine: environment variables, console, Prefect's own server. It imports no flow."""
