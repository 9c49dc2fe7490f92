def paired_up(items):
    return [(items[i], items[i + 1]) for i in range(len(items) - 2)]
