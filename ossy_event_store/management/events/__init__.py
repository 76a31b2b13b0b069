"""What ``manage.py events`` consists of."""
