"""Containers as services: descriptions and units, without root."""
