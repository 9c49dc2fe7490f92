"""Families that adapters learn to repair (26): none of them is a repair pair in pre-training."""

from coral_core.problem_sources.families.draw import read_families, templates

FAMILIES = read_families(
    {
        "first-index(few, digit)": templates(
            "def @cue_index($xs, $k):\n    for $i in range(@range):\n        if $xs[$i] == $k:\n            return $i\n    return -1",
            "def find_@cue($xs, $k):\n    $best = -1\n    for $i in range(@range):\n        if $xs[$i] == $k and $best == -1:\n            $best = $i\n    return $best",
            twists=({"cue": "first", "range": "len($xs)"}, {"cue": "last", "range": "len($xs) - 1, -1, -1"}),
        ),
        "binary-search(sorted, int)": templates(
            "def @cue_position($xs, $k):\n    $lo = 0\n    $hi = len($xs)\n    while $lo < $hi:\n        mid = ($lo + $hi) // 2\n        if $xs[mid] @op $k:\n            $lo = mid + 1\n        else:\n            $hi = mid\n    return $lo",
            twists=({"cue": "left", "op": "<"}, {"cue": "right", "op": "<="}),
        ),
        "two-conditions(ints, int, int)": templates(
            "def count_@cue($xs, $a, $b):\n    $acc = 0\n    for $x in $xs:\n        if $x > $a @join $x < $b:\n            $acc += 1\n    return $acc",
            "def keep_@cue($xs, $a, $b):\n    return [$x for $x in $xs if $x > $a @join $x < $b]",
            twists=({"cue": "both", "join": "and"}, {"cue": "either", "join": "or"}),
        ),
        "drop-none(words)": templates(
            "def @cue_words($xs):\n    $acc = []\n    for $s in $xs:\n        if @not$s:\n            $acc.append($s)\n    return $acc",
            "def count_@cue($xs):\n    $acc = 0\n    for $s in $xs:\n        if @not$s:\n            $acc += 1\n    return $acc",
            twists=({"cue": "full|filled", "not": ""}, {"cue": "empty|blank", "not": "not "}),
        ),
        "histogram(few)": templates(
            "def tally($xs):\n    $d = {}\n    for $x in $xs:\n        $d[$x] = $d.get($x, 0) + 1\n    return $d",
            "def tally($xs):\n    $d = {}\n    for $x in $xs:\n        if $x not in $d:\n            $d[$x] = 0\n        $d[$x] += 1\n    return $d",
            "def weigh_@cue($xs):\n    $d = {}\n    for $x in $xs:\n        $d[$x] = $d.get($x, 0) + @w\n    return $d",
            twists=({"cue": "twos|double", "w": "2"}, {"cue": "threes|triple", "w": "3"}),
        ),
        "dedupe(few)": templates(
            "def unique($xs):\n    $acc = []\n    for $x in $xs:\n        if $x not in $acc:\n            $acc.append($x)\n    return $acc",
            "def distinct($xs):\n    $d = set()\n    $acc = []\n    for $x in $xs:\n        if $x not in $d:\n            $d.add($x)\n            $acc.append($x)\n    return $acc",
            "def repeated($xs):\n    $acc = []\n    for $x in $xs:\n        if $xs.count($x) > 1 and $x not in $acc:\n            $acc.append($x)\n    return $acc",
        ),
        "merge(sorted, sorted)": templates(
            "def merge($xs, $ys):\n    $acc = []\n    while $xs and $ys:\n        if $xs[0] <= $ys[0]:\n            $acc.append($xs.pop(0))\n        else:\n            $acc.append($ys.pop(0))\n    return $acc + $xs + $ys",
            "def merge_sorted($xs, $ys):\n    $acc = sorted($xs + $ys)\n    return $acc",
        ),
        "palindrome(str)": templates(
            "def is_mirror($s):\n    return $s == $s[::-1]",
            "def is_mirror($s):\n    $i = 0\n    while $i < len($s) // 2:\n        if $s[$i] != $s[len($s) - 1 - $i]:\n            return False\n        $i += 1\n    return True",
        ),
        "flatten(rows)": templates(
            "def flatten($xs):\n    $acc = []\n    for $ys in $xs:\n        for $x in $ys:\n            $acc.append($x)\n    return $acc",
            "def flatten($xs):\n    $acc = []\n    for $ys in $xs:\n        $acc.extend($ys)\n    return $acc",
            "def flat_@cue($xs):\n    return [@p for $ys in $xs for $x in $ys]",
            twists=({"cue": "plain", "p": "$x"}, {"cue": "negated", "p": "-$x"}, {"cue": "doubled", "p": "2 * $x"}),
        ),
        "row-reduce(rows1)": templates(
            "def row_@cue($xs):\n    return [@fn($ys) for $ys in $xs]",
            "def @cue_each($xs):\n    $acc = []\n    for $ys in $xs:\n        $acc.append(@fn($ys))\n    return $acc",
            twists=(
                {"cue": "sums", "fn": "sum"},
                {"cue": "maxima|tops", "fn": "max"},
                {"cue": "minima|lows", "fn": "min"},
                {"cue": "sizes|lens", "fn": "len"},
            ),
        ),
        "fibonacci(small)": templates(
            "def fib($n):\n    $a, $b = (@start)\n    for $i in range($n):\n        $a, $b = ($b, $a + $b)\n    return $a",
            "def fib_list($n):\n    $a, $b = (@start)\n    $acc = []\n    for $i in range($n):\n        $acc.append($a)\n        $a, $b = ($b, $a + $b)\n    return $acc",
            twists=({"start": "0, 1"}, {"start": "2, 1"}),
        ),
        "power(int, digit)": templates(
            "def power($x, $n):\n    $acc = 1\n    while $n > 0:\n        $acc = $acc * $x\n        $n = $n - 1\n    return $acc",
            "def times($x, $n):\n    $acc = 0\n    while $n > 0:\n        $acc = $acc + $x\n        $n = $n - 1\n    return $acc",
        ),
        "prime(natural)": templates(
            "def is_prime($n):\n    if $n < 2:\n        return False\n    for $i in range(2, $n):\n        if $n % $i == 0:\n            return False\n    return True",
            "def divisors($n):\n    return [$i for $i in range(1, $n + 1) if $n % $i == 0]",
            "def proper_divisors($n):\n    return [$i for $i in range(1, $n) if $n % $i == 0]",
        ),
        "to-base(digits)": templates(
            "def to_@cue($n):\n    $acc = ''\n    while $n > 0:\n        $acc = str($n % @b) + $acc\n        $n = $n // @b\n    return $acc",
            "def @cue_digits($n):\n    $acc = []\n    while $n > 0:\n        $acc.append($n % @b)\n        $n = $n // @b\n    return $acc",
            twists=(
                {"cue": "binary|two", "b": "2"},
                {"cue": "ternary|three", "b": "3"},
                {"cue": "octal|eight", "b": "8"},
            ),
        ),
        "second-extreme(ints2)": templates(
            "def second_@cue($xs):\n    $acc = sorted($xs)\n    return $acc[@i]",
            "def @cue_but_one($xs):\n    $xs.sort()\n    return $xs[@i]",
            twists=({"cue": "largest|highest", "i": "-2"}, {"cue": "smallest|lowest", "i": "1"}),
        ),
        "balance(bits)": templates(
            "def depth_ok($xs):\n    $acc = 0\n    for $x in $xs:\n        if $x == 1:\n            $acc += 1\n        else:\n            $acc -= 1\n        if $acc < 0:\n            return False\n    return $acc == 0",
            "def deepest($xs):\n    $acc = 0\n    $best = 0\n    for $x in $xs:\n        if $x == 1:\n            $acc += 1\n        else:\n            $acc -= 1\n        $best = max($best, $acc)\n    return $best",
        ),
        "longest-run(bits)": templates(
            "def longest_@cue($xs):\n    $best = 0\n    $n = 0\n    for $x in $xs:\n        if $x == @bit:\n            $n += 1\n            $best = max($best, $n)\n        else:\n            $n = 0\n    return $best",
            twists=({"cue": "ones", "bit": "1"}, {"cue": "zeros", "bit": "0"}),
        ),
        "zip-combine(ints, ints)": templates(
            "def @cue_pairs($xs, $ys):\n    return [@p for $x, $y in zip($xs, $ys)]",
            "def pair_@cue($xs, $ys):\n    $acc = []\n    for $x, $y in zip($xs, $ys):\n        $acc.append(@p)\n    return $acc",
            twists=(
                {"cue": "add|sum", "p": "$x + $y"},
                {"cue": "mul|product", "p": "$x * $y"},
                {"cue": "sub|minus", "p": "$x - $y"},
                {"cue": "larger", "p": "max($x, $y)"},
            ),
        ),
        "dot(ints, ints)": templates(
            "def dot($xs, $ys):\n    $acc = 0\n    for $x, $y in zip($xs, $ys):\n        $acc += $x * $y\n    return $acc",
            "def overlap($xs, $ys):\n    $acc = 0\n    for $x in $xs:\n        if $x in $ys:\n            $acc += 1\n    return $acc",
        ),
        "rotate(ints1, digit)": templates(
            "def rotate_@cue($xs, $k):\n    $k = $k % len($xs)\n    return @p",
            "def turn_@cue($xs, $k):\n    $n = $k % len($xs)\n    return @p2",
            twists=(
                {"cue": "left", "p": "$xs[$k:] + $xs[:$k]", "p2": "$xs[$n:] + $xs[:$n]"},
                {"cue": "right", "p": "$xs[-$k:] + $xs[:-$k]", "p2": "$xs[-$n:] + $xs[:-$n]"},
            ),
        ),
        "every-nth(ints, positive)": templates(
            "def every_nth($xs, $k):\n    return $xs[::$k]",
            "def every_nth($xs, $k):\n    $acc = []\n    for $i in range(0, len($xs), $k):\n        $acc.append($xs[$i])\n    return $acc",
            "def chunks($xs, $k):\n    $acc = []\n    for $i in range(0, len($xs), $k):\n        $acc.append($xs[$i:$i + $k])\n    return $acc",
        ),
        "pair-fields(pairs)": templates(
            "def @cue_parts($xs):\n    return [$x[@i] for $x in $xs]",
            "def sum_@cue($xs):\n    $acc = 0\n    for $x in $xs:\n        $acc += $x[@i]\n    return $acc",
            "def by_@cue($xs):\n    return sorted($xs, key=lambda $x: $x[@i])",
            twists=({"cue": "first|left", "i": "0"}, {"cue": "second|right", "i": "1"}),
        ),
        "best-word(words1)": templates(
            "def @cue_word($xs):\n    $best = $xs[0]\n    for $s in $xs:\n        if len($s) @op len($best):\n            $best = $s\n    return $best",
            "def @cue_of($xs):\n    return @fn($xs, key=len)",
            twists=({"cue": "longest", "op": ">", "fn": "max"}, {"cue": "shortest", "op": "<", "fn": "min"}),
        ),
        "clean-text(str)": templates(
            "def squeeze($s):\n    $acc = ''\n    for $c in $s:\n        if $c != ' ':\n            $acc += $c.lower()\n    return $acc",
            "def initials($s):\n    return [$x[0] for $x in $s.split()]",
            "def tidy($s):\n    return $s.strip().lower()",
            "def capitals($s):\n    $acc = 0\n    for $c in $s:\n        if $c.isupper():\n            $acc += 1\n    return $acc",
        ),
        "matrix(rows1)": templates(
            "def row_count($xs):\n    $acc = 0\n    for $ys in $xs:\n        for $x in $ys:\n            if $x > 0:\n                $acc += 1\n    return $acc",
            "def corner($xs):\n    return $xs[-1][-1] + $xs[0][0]",
            "def widest($xs):\n    $best = 0\n    for $ys in $xs:\n        $best = max($best, len($ys))\n    return $best",
        ),
        "collatz(natural1)": templates(
            "def steps($n):\n    $acc = 0\n    while $n != 1:\n        if $n % 2 == 0:\n            $n = $n // 2\n        else:\n            $n = 3 * $n + 1\n        $acc += 1\n    return $acc",
            "def halvings($n):\n    $acc = 0\n    while $n % 2 == 0:\n        $n = $n // 2\n        $acc += 1\n    return $acc",
        ),
    }
)
