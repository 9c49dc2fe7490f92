def largest_gap(numbers):
    gap = 0
    for i in range(1, len(numbers)):
        gap = max(gap, abs(numbers[i] - numbers[i - 1]))
    return gap
