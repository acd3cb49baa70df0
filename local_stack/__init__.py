"""The embedded default: Postgres, an S3 store and Airflow out of Python wheels. For trying out and for tests."""
