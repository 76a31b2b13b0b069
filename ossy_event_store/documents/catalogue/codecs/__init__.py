"""How objects of event classes are stored, and made again. Pure."""
