"""
A site that differs from the other tests' in all that a site may choose.

It has its own admin site and model of users, lies under a prefix, has no time zones,
names static files by their contents, uses ``ATOMIC_REQUESTS``, and shows numbers with
separators in a language that is written from right to left.
"""
