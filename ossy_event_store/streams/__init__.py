"""Streams of events: append, load, fold, snapshot, import and export."""
