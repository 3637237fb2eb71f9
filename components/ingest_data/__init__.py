"""The step ingest_data."""
