def measured(options):
    return [], []
