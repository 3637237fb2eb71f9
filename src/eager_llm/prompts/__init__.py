"""Prompts and answers: templates, and the builder that fills them."""
