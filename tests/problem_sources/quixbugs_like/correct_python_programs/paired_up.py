def paired_up(items):
    return [(items[i], items[i + 1]) for i in range(len(items) - 1)]


"""
Or:
def paired_up(items):
    return list(zip(items, items[1:]))
"""
