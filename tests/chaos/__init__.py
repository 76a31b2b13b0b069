"""
The chaos run: writers of every kind against three nodes that fail all the time.

``python -m tests.chaos --seconds 600 --seed 7`` runs it. What the writers were told
is written down as it happens (``history``); at the end it is held against what the
database has (``checker``). One event lost, doubled or followed by a hole is one too
many, and so is a newer snapshot replaced by an older one.
"""
