"""Races between writers: what to do again, and when."""
