"""The one directory that serving loads, with its gates."""
