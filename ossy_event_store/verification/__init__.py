"""Check that what is stored is sound."""
