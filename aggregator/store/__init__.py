"""Rollups on disk, and the answers that are read from them."""
