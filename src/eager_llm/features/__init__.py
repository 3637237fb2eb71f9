"""Features in Feast: views, offline and online stores."""
