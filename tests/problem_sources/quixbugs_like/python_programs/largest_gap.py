def largest_gap(numbers):
    gap = 0
    for i in range(1, len(numbers) - 1):
        gap = max(gap, abs(numbers[i] - numbers[i - 1]))
    return gap


"""
Largest Gap

Input:
    numbers: A list of ints
"""
