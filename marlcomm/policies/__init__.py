"""Policies: networks that see, talk, hear, act and value."""
