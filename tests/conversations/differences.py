"""Where the C server (1.1.20) goes another way than the conversations, and why this one does not follow."""

DIFFERENCES = {}
"""Conversation to reason. The C server must fail these, or the row is out of date."""

ONLY_HERE = {}
"""Conversation to reason. Never held with the C server."""
