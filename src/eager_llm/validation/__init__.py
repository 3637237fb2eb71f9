"""Gates on data: expectations, suites, reports, drift."""
