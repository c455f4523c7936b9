-- Postgres runs this once, when its volume is empty: one database for each of the two servers.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
