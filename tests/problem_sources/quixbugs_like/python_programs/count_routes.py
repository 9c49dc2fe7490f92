def count_routes(rows, columns):
    if rows == 0 and columns == 0:
        return 1
    if rows < 0 or columns < 0:
        return 1
    return count_routes(rows - 1, columns) + count_routes(rows, columns - 1)
