"""Guests: how they are built, and how the agent gets into one that exists."""
