"""What every room stands on: errors, files, stores, progress, DuckDB, HTML pages."""
