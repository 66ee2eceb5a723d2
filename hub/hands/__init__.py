"""Renders of hands with exact joints: `python -m hub.hands --help`."""
