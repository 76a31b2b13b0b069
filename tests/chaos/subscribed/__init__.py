"""
The chaos run of positions and subscriptions; also the app that the processes run.

``python -m tests.chaos --subscriptions --seconds 60 --seed 7`` runs it. Writers,
sequencers and the processes of ``manage.py run_subscriptions`` are killed and frozen
while the servers fail, and the change stream loses its history. Handlers fail at some
events for a while, and operators retry and skip.

At the end each event has to have one position, one effect where effects are exactly
once, and at least one delivery elsewhere, in the order of its stream; what was skipped
has none.
"""
