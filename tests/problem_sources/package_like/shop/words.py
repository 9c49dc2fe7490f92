def initials(name):
    parts = [part for part in name.split(" ") if part]
    return "".join(part[0].upper() + "." for part in parts)


def is_palindrome(text):
    left = 0
    right = len(text) - 1
    while left < right:
        if text[left] != text[right]:
            return False
        left += 1
        right -= 1
    return True


def longest(words):
    best = ""
    for word in words:
        if len(word) > len(best):
            best = word
    return best


def count_vowels(text):
    count = 0
    for letter in text:
        if letter in "aeiou":
            count += 1
    return count


def chunks(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]


def windows(items, size):
    for i in range(len(items) - size + 1):
        yield items[i : i + size]


def caesar(text, shift):
    out = ""
    for letter in text:
        if letter.isalpha():
            base = 97 if letter.islower() else 65
            out += chr((ord(letter) - base + shift) % 26 + base)
        else:
            out += letter
    return out
