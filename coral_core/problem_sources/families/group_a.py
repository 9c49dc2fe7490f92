"""Families that the embedded base model is pre-trained to repair (34)."""

from coral_core.problem_sources.families.draw import read_families, templates

CMP = (
    {"op": ">", "cue": "above|over|greater"},
    {"op": ">=", "cue": "at_least|from|min"},
    {"op": "<", "cue": "below|under|less"},
    {"op": "<=", "cue": "at_most|upto|max"},
)
SIGN = (
    {"test": "> 0", "cue": "positive|pos"},
    {"test": "< 0", "cue": "negative|neg"},
    {"test": "== 0", "cue": "zero|null"},
    {"test": "!= 0", "cue": "nonzero|nonnull"},
)
PARITY = (
    {"test": "% 2 == 0", "cue": "even"},
    {"test": "% 2 == 1", "cue": "odd"},
    {"test": "% 3 == 0", "cue": "third|triple"},
)
POWER = (
    {"p": "$x", "cue": "plain"},
    {"p": "$x * $x", "cue": "square|squared"},
    {"p": "$x * $x * $x", "cue": "cube|cubed"},
)

FAMILIES = read_families(
    {
        "count-compared(ints, int)": templates(
            "def count_@cue($xs, $k):\n    $acc = 0\n    for $x in $xs:\n        if $x @op $k:\n            $acc += 1\n    return $acc",
            "def @cue_count($xs, $k):\n    return len([$x for $x in $xs if $x @op $k])",
            "def num_@cue($xs, $k):\n    $acc = 0\n    $i = 0\n    while $i < len($xs):\n        if $xs[$i] @op $k:\n            $acc += 1\n        $i += 1\n    return $acc",
            twists=CMP,
        ),
        "keep-compared(ints, int)": templates(
            "def keep_@cue($xs, $k):\n    $acc = []\n    for $x in $xs:\n        if $x @op $k:\n            $acc.append($x)\n    return $acc",
            "def filter_@cue($xs, $k):\n    return [$x for $x in $xs if $x @op $k]",
            twists=CMP,
        ),
        "sum-signed(ints)": templates(
            "def sum_@cue($xs):\n    $acc = 0\n    for $x in $xs:\n        if $x @test:\n            $acc += $x + 1\n    return $acc",
            "def @cue_sum($xs):\n    return sum([$x + 1 for $x in $xs if $x @test])",
            twists=SIGN,
        ),
        "count-parity(ints)": templates(
            "def count_@cue($xs):\n    $acc = 0\n    for $x in $xs:\n        if $x @test:\n            $acc += 1\n    return $acc",
            "def @cue_count($xs):\n    return sum([1 for $x in $xs if $x @test])",
            twists=PARITY,
        ),
        "extreme(ints1)": templates(
            "def find_@cue($xs):\n    $best = $xs[0]\n    for $x in $xs:\n        if $x @op $best:\n            $best = $x\n    return $best",
            "def @cue_of($xs):\n    return @fn($xs)",
            twists=(
                {"op": ">", "cue": "largest|biggest", "fn": "max"},
                {"op": "<", "cue": "smallest|lowest", "fn": "min"},
            ),
        ),
        "power-sum(ints)": templates(
            "def sum_@cue($xs):\n    $acc = 0\n    for $x in $xs:\n        $acc += @p\n    return $acc",
            "def @cue_total($xs):\n    return sum([@p for $x in $xs])",
            twists=POWER,
        ),
        "spread(ints1)": templates(
            "def spread($xs):\n    return max($xs) - min($xs)",
            "def gap($xs):\n    $lo = min($xs)\n    $hi = max($xs)\n    return $hi - $lo",
        ),
        "mean-like(ints1)": templates(
            "def mean($xs):\n    return sum($xs) // len($xs)",
            "def average($xs):\n    $acc = 0\n    for $x in $xs:\n        $acc += $x\n    return $acc // len($xs)",
        ),
        "product(positives)": templates(
            "def product($xs):\n    $acc = 1\n    for $x in $xs:\n        $acc *= $x\n    return $acc",
            "def multiply_all($xs):\n    $acc = 1\n    $i = 0\n    while $i < len($xs):\n        $acc *= $xs[$i]\n        $i += 1\n    return $acc",
        ),
        "clamp(int, int, positive)": templates(
            "def clamp($x, $lo, $n):\n    $hi = $lo + $n\n    if $x < $lo:\n        return $lo\n    if $x > $hi:\n        return $hi\n    return $x",
            "def bounded($x, $lo, $n):\n    $hi = $lo + $n\n    return max($lo, min($hi, $x))",
        ),
        "range-test(int, int, positive)": templates(
            "def @cue_range($x, $lo, $n):\n    $hi = $lo + $n\n    return $lo @l $x and $x @r $hi",
            "def in_@cue($x, $lo, $n):\n    $hi = $lo + $n\n    if $lo @l $x and $x @r $hi:\n        return True\n    return False",
            twists=(
                {"l": "<=", "r": "<=", "cue": "closed"},
                {"l": "<", "r": "<", "cue": "open"},
                {"l": "<=", "r": "<", "cue": "half"},
            ),
        ),
        "factorial(small)": templates(
            "def factorial($n):\n    $acc = 1\n    for $i in range(1, $n + 1):\n        $acc *= $i\n    return $acc",
            "def factorial($n):\n    if $n <= 1:\n        return 1\n    return $n * factorial($n - 1)",
        ),
        "sum-to(natural)": templates(
            "def sum_@cue($n):\n    $acc = 0\n    for $i in range(1, $n @plus):\n        $acc += $i\n    return $acc",
            "def total_@cue($n):\n    return sum(range(1, $n @plus))",
            twists=({"cue": "upto|through", "plus": "+ 1"}, {"cue": "below|before", "plus": "+ 0"}),
        ),
        "triangle(natural)": templates(
            "def triangle($n):\n    return $n * ($n + 1) // 2",
            "def triangular($n):\n    $acc = $n * ($n + 1)\n    return $acc // 2",
        ),
        "digit-sum(digits)": templates(
            "def digit_sum($n):\n    $acc = 0\n    while $n > 0:\n        $acc += $n % 10\n        $n = $n // 10\n    return $acc",
            "def sum_digits($n):\n    return sum([int($c) for $c in str($n)])",
        ),
        "digit-count(digits)": templates(
            "def digit_count($n):\n    $acc = 1\n    while $n >= 10:\n        $acc += 1\n        $n = $n // 10\n    return $acc",
            "def count_digits($n):\n    return len(str($n))",
        ),
        "even-odd-test(int)": templates(
            "def is_@cue($n):\n    return $n @test",
            "def @cue_test($n):\n    if $n @test:\n        return True\n    return False",
            twists=PARITY,
        ),
        "abs-diff(int, int)": templates(
            "def distance($a, $b):\n    if $a > $b:\n        return $a - $b\n    return $b - $a",
            "def distance($a, $b):\n    return abs($a - $b)",
        ),
        "string-case(str)": templates(
            "def to_@cue($s):\n    return $s.@fn()",
            "def @cue_text($s):\n    $acc = ''\n    for $c in $s:\n        $acc += $c.@fn()\n    return $acc",
            twists=({"cue": "upper", "fn": "upper"}, {"cue": "lower", "fn": "lower"}),
        ),
        "count-char(str, letter)": templates(
            "def count_char($s, $c):\n    return $s.count($c)",
            "def occurrences($s, $k):\n    $acc = 0\n    for $c in $s:\n        if $c == $k:\n            $acc += 1\n    return $acc",
        ),
        "string-edge(affix, affix)": templates(
            "def has_@cue($s, $k):\n    return $s.@fn($k)",
            "def @cue_match($s, $k):\n    if $s.@fn($k):\n        return 1\n    return 0",
            twists=({"cue": "prefix", "fn": "startswith"}, {"cue": "suffix", "fn": "endswith"}),
        ),
        "reverse(ints)": templates(
            "def reverse($xs):\n    return $xs[::-1]",
            "def backwards($xs):\n    $acc = []\n    for $x in $xs:\n        $acc.insert(0, $x)\n    return $acc",
        ),
        "scale(ints, int)": templates(
            "def scale($xs, $k):\n    return [$x * $k for $x in $xs]",
            "def shift($xs, $k):\n    return [$x + $k for $x in $xs]",
            "def lower_by($xs, $k):\n    return [$x - $k for $x in $xs]",
        ),
        "order(ints)": templates(
            "def sort_@cue($xs):\n    return sorted($xs, reverse=@rev)",
            "def @cue_order($xs):\n    $acc = sorted($xs, reverse=@rev)\n    return $acc",
            twists=({"cue": "down|descending", "rev": "True"}, {"cue": "up|ascending", "rev": "False"}),
        ),
        "first-n(ints, digit)": templates(
            "def take($xs, $n):\n    return $xs[:$n]",
            "def skip($xs, $n):\n    return $xs[$n:]",
        ),
        "any-all(ints, int)": templates(
            "def @cue_above($xs, $k):\n    return @fn([$x > $k for $x in $xs])",
            "def @cue_below($xs, $k):\n    return @fn([$x < $k for $x in $xs])",
            twists=({"cue": "any|some", "fn": "any"}, {"cue": "all|every", "fn": "all"}),
        ),
        "weighted(int, int)": templates(
            "def @cue_mix($a, $b):\n    return @w * $a + @v * $b",
            "def mix_@cue($a, $b):\n    $acc = @w * $a\n    return $acc + @v * $b",
            twists=(
                {"cue": "two_one", "w": "2", "v": "1"},
                {"cue": "one_two", "w": "1", "v": "2"},
                {"cue": "three_two", "w": "3", "v": "2"},
            ),
        ),
        "rect(positive, positive)": templates(
            "def area($a, $b):\n    return $a * $b",
            "def perimeter($a, $b):\n    return 2 * ($a + $b)",
        ),
        "gcd(positive, positive)": templates(
            "def gcd($a, $b):\n    while $b != 0:\n        $a, $b = ($b, $a % $b)\n    return $a",
            "def gcd($a, $b):\n    if $b == 0:\n        return $a\n    return gcd($b, $a % $b)",
        ),
        "join-words(words)": templates(
            "def join_@cue($xs):\n    return @sep.join($xs)",
            "def @cue_list($xs):\n    $acc = @sep.join($xs)\n    return $acc",
            twists=({"cue": "space", "sep": "' '"}, {"cue": "dash", "sep": "'-'"}, {"cue": "comma", "sep": "','"}),
        ),
        "word-lengths(words)": templates(
            "def lengths($xs):\n    return [len($x) for $x in $xs]",
            "def total_length($xs):\n    $acc = 0\n    for $x in $xs:\n        $acc += len($x)\n    return $acc",
        ),
        "pairwise(ints)": templates(
            "def @cue_steps($xs):\n    return [$xs[$i + 1] @op $xs[$i] for $i in range(len($xs) - 1)]",
            "def neighbor_@cue($xs):\n    $acc = []\n    for $i in range(len($xs) - 1):\n        $acc.append($xs[$i + 1] @op $xs[$i])\n    return $acc",
            twists=({"cue": "diff", "op": "-"}, {"cue": "sum", "op": "+"}, {"cue": "prod", "op": "*"}),
        ),
        "running(ints)": templates(
            "def running_sum($xs):\n    $acc = []\n    $best = 0\n    for $x in $xs:\n        $best += $x\n        $acc.append($best)\n    return $acc",
            "def prefix_sums($xs):\n    return [sum($xs[:$i + 1]) for $i in range(len($xs))]",
        ),
        "grade(natural)": templates(
            "def grade($n):\n    if $n >= 20:\n        return 'high'\n    if $n >= 10:\n        return 'mid'\n    return 'low'",
            "def level($n):\n    if $n < 10:\n        return 1\n    if $n < 20:\n        return 2\n    return 3",
        ),
    }
)
