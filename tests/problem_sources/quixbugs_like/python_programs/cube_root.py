def cube_root(x, epsilon):
    guess = x / 3 or 1.0
    while abs(x - guess**3) > epsilon:
        guess = (guess + x / guess**2) / 2
        if guess > 1e6:
            break
    return guess + epsilon * 9
