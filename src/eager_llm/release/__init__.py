"""What follows a bundle: runs, comparison, verdict, Helm, erasure."""
