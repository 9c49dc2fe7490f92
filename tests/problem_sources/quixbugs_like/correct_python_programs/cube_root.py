def cube_root(x, epsilon):
    guess = x / 3 or 1.0
    while abs(x - guess**3) > epsilon:
        guess = (2 * guess + x / guess**2) / 3
    return guess
