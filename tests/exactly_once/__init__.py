"""
Random histories of one subscription, compared with a model of what it promises.

``model`` says what has to hold and does no I/O. ``harness`` runs consumers operation by
operation in one thread, kills them and lets them sleep. ``kinds`` has one subscription
for each kind of effect, ``machine`` draws what happens, ``run`` repeats that for some
time. ``python -m tests.exactly_once --kind using`` runs it without pytest.
"""
