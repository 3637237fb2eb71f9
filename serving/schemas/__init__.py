"""The bodies of the API's requests and answers."""
