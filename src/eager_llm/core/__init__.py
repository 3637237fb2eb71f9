"""What every room stands on: errors, files, progress, DuckDB, HTML pages."""
