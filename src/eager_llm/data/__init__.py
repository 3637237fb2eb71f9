"""From a log to clean tables: tables, cleaning, splits, the demo shop."""
