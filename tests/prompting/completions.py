"""What models really write, and the patch that is meant: (what, completion, how, expected patch).

The entry point is `add_all` throughout. GOOD is the answer; ECHO is the buggy text that
models like to repeat first.
"""

GOOD = "def add_all(items):\n    total = 0\n    for item in items:\n        total += item\n    return total"
ECHO = GOOD.replace("total += item", "total -= item")
HELPER = "def plus(a, b):\n    return a + b"
USES = "def add_all(items):\n    total = 0\n    for item in items:\n        total = plus(total, item)\n    return total"
IMPORTS = "import math\n\ndef add_all(items):\n    return math.fsum(items)"
FROM = "from functools import reduce\n\ndef add_all(items):\n    return reduce(lambda a, b: a + b, items, 0)"
SHORT = "def add_all(items):\n    return sum(items)"
INDENTED = "\n".join("    " + line for line in GOOD.split("\n"))
TABBED = GOOD.replace("    ", "\t")
DOC = 'def add_all(items):\n    """Add.\n\n    ```\n    add_all([1])\n    ```\n    """\n    return sum(items)'
FENCED = f"```python\n{GOOD}\n```"

CASES: list[tuple[str, str, str, str]] = [
    # whole answers
    ("plain", GOOD, "whole", GOOD),
    ("newline at the end", GOOD + "\n\n", "whole", GOOD),
    ("newlines before", "\n\n" + GOOD, "whole", GOOD),
    ("windows line ends", GOOD.replace("\n", "\r\n"), "whole", GOOD),
    ("old mac line ends", GOOD.replace("\n", "\r"), "whole", GOOD),
    ("tabs", TABBED, "whole", GOOD),
    ("tabs and spaces mixed", TABBED.replace("\t\t", "    \t"), "whole", GOOD),
    ("a tab inside a string stays", SHORT.replace("items)", "'a\tb')", 1), "none", SHORT.replace("items)", "'a\tb')", 1)),
    ("tab in a literal", SHORT + "\n\nSEP = 'a\tb'", "whole", SHORT + "\n\nSEP = 'a\tb'"),
    ("indented as a block", INDENTED, "whole", GOOD),
    ("with an import", IMPORTS, "whole", IMPORTS),
    ("with a from import", FROM, "whole", FROM),
    ("helper before", f"{HELPER}\n\n{USES}", "whole", f"{HELPER}\n\n{USES}"),
    ("helper after", f"{USES}\n\n{HELPER}", "whole", f"{USES}\n\n{HELPER}"),
    ("usage after", f"{GOOD}\n\nprint(add_all([1, 2]))", "whole", f"{GOOD}\n\nprint(add_all([1, 2]))"),
    ("comment before", f"# the fix\n{GOOD}", "whole", f"# the fix\n{GOOD}"),
    ("lambda", "add_all = lambda items: sum(items)", "whole", "add_all = lambda items: sum(items)"),
    ("annotated lambda", "add_all: object = lambda items: sum(items)", "whole", "add_all: object = lambda items: sum(items)"),
    ("async", "async def add_all(items):\n    return sum(items)", "whole", "async def add_all(items):\n    return sum(items)"),
    ("type hints", "def add_all(items: list[int]) -> int:\n    return sum(items)", "whole", "def add_all(items: list[int]) -> int:\n    return sum(items)"),
    ("decorated", f"import functools\n\n@functools.cache\n{SHORT}", "whole", f"import functools\n\n@functools.cache\n{SHORT}"),
    ("echo, then the fix", f"{ECHO}\n\n{GOOD}", "whole", f"{ECHO}\n\n{GOOD}"),
    ("docstring with a fence", DOC, "whole", DOC),
    ("NUL byte", GOOD.replace("return", "return\0"), "whole", GOOD),
    ("invalid escape in a string", SHORT + "\n\nPATTERN = '\\d'", "whole", SHORT + "\n\nPATTERN = '\\d'"),
    ("non-ASCII", SHORT + "  # größer", "whole", SHORT + "  # größer"),
    # the prompt opened the fence
    ("closing fence", GOOD + "\n```", "whole", GOOD),
    ("closing fence and prose", GOOD + "\n```\nThe sign was wrong.", "whole", GOOD),
    ("goes on with the next example", f"{GOOD}\n```\n\nBuggy code:\n```python\n{ECHO}\n```", "whole", GOOD),
    ("goes on and repeats itself", f"{GOOD}\n```\n\nCorrected code:\n```python\n{ECHO}\n```", "whole", GOOD),
    ("import, closing fence", IMPORTS + "\n```\n", "whole", IMPORTS),
    # fenced
    ("fenced", FENCED, "fenced", GOOD),
    ("fenced without a language", f"```\n{GOOD}\n```", "fenced", GOOD),
    ("fenced as py", f"```py\n{GOOD}\n```", "fenced", GOOD),
    ("fenced as Python3", f"```Python3\n{GOOD}\n```", "fenced", GOOD),
    ("fenced, spaces after the mark", f"```python  \n{GOOD}\n```  ", "fenced", GOOD),
    ("fenced, windows line ends", FENCED.replace("\n", "\r\n"), "fenced", GOOD),
    ("fence never closed", f"```python\n{GOOD}", "fenced", GOOD),
    ("fence indented in a list", "1. The fix:\n\n" + "\n".join("   " + line for line in FENCED.split("\n")), "fenced", GOOD),
    ("prose, fenced", f"Here is the corrected code:\n\n{FENCED}", "fenced", GOOD),
    ("fenced, prose", f"{FENCED}\n\nI changed the sign.", "fenced", GOOD),
    ("prose on both sides", f"Sure!\n\n{FENCED}\n\nLet me know if it helps.", "fenced", GOOD),
    ("prose with backticks", f"`add_all` subtracts in `total -= item`:\n{FENCED}", "fenced", GOOD),
    ("buggy block, then the fix", f"The bug:\n```python\n{ECHO}\n```\nThe fix:\n{FENCED}", "fenced", GOOD),
    ("fix, then how to use it", f"{FENCED}\nUse it:\n```python\nprint(add_all([1]))\n```", "fenced", GOOD),
    ("fix, then the shell", f"{FENCED}\nRun:\n```bash\npython add_all.py\n```", "fenced", GOOD),
    ("fix, then the output", f"{FENCED}\nOutput:\n```\n3\n```", "fenced", GOOD),
    ("diff, then the fix", f"```diff\n-        total -= item\n+        total += item\n```\n{FENCED}", "fenced", GOOD),
    ("helper in a block of its own", f"```python\n{HELPER}\n```\nand\n```python\n{USES}\n```", "fenced", f"{HELPER}\n\n{USES}"),
    ("import in a block of its own", "```python\nimport math\n```\n```python\ndef add_all(items):\n    return math.fsum(items)\n```", "fenced", "import math\n\ndef add_all(items):\n    return math.fsum(items)"),
    ("a helper that nobody uses stays out", f"```python\n{HELPER}\n```\n{FENCED}", "fenced", GOOD),
    ("two functions in a fence", f"```python\n{HELPER}\n\n{USES}\n```", "fenced", f"{HELPER}\n\n{USES}"),
    ("fenced tabs", f"```python\n{TABBED}\n```", "fenced", GOOD),
    ("prose with quotes, fenced", f'"It\'s the sign," says the linter.\n{FENCED}', "fenced", GOOD),
    ("the whole prompt again", f"The following Python code has a bug.\n\nBuggy code:\n```python\n{ECHO}\n```\n\nCorrected code:\n{FENCED}", "fenced", GOOD),
    # between lines of prose, no fence
    ("prose, code", f"Here is the fix:\n{GOOD}", "embedded", GOOD),
    ("code, prose", f"{GOOD}\n\nThe sign was wrong.", "embedded", GOOD),
    ("prose, code, prose", f"Sure, the fix.\n\n{GOOD}\n\nHope that helps!", "embedded", GOOD),
    ("prose, import, code", f"Use fsum.\n\n{IMPORTS}\n\nDone now.", "embedded", IMPORTS),
    ("echo, prose, code", f"{ECHO}\n\nbecomes this\n\n{GOOD}", "embedded", GOOD),
    ("[PYTHON] tags", f"[PYTHON]\n{GOOD}\n[/PYTHON]", "embedded", GOOD),
    ("<answer> tags", f"<answer>\n{GOOD}\n</answer>", "embedded", GOOD),
    ("title of markdown and prose", f"## Fix for you: done\nIt is simple.\n{GOOD}", "embedded", GOOD),
    ("helper, prose, code", f"First a helper.\n{HELPER}\nThen the function.\n{USES}", "embedded", USES),
    ("indented block of Markdown", f"Here is the fix:\n\n{INDENTED}\n\nIt adds now.", "embedded", GOOD),
    ("indented block, blank lines in it", "The fix:\n\n" + "\n".join("    " + line if line else "" for line in IMPORTS.split("\n")), "embedded", IMPORTS),
    # cut off
    ("indented block, cut", f"Here is the fix:\n\n{INDENTED}\n        y = (", "truncated", GOOD),
    ("cut in a call", GOOD + "\n\nprint(add_all([1, 2", "embedded", GOOD),
    ("cut in the next function", GOOD + "\n\ndef other(a, b", "truncated", GOOD),
    ("cut in the last line", GOOD + " + (1", "truncated", GOOD.rsplit("\n", 1)[0]),
    ("cut in a string", GOOD.replace("    return total", "    print('tot"), "truncated", GOOD.rsplit("\n", 1)[0]),
    ("fenced and cut", "```python\n" + GOOD + "\n    print(tot", "truncated", GOOD),
    ("fenced and cut, with an import", "```python\n" + IMPORTS + "\n    x = [1,", "truncated", IMPORTS),
    ("prose, then cut", "The fix is:\n" + GOOD + "\n    y = {", "truncated", GOOD),
    ("cut, helper kept", f"{HELPER}\n\n{USES}\n    z = (", "truncated", f"{HELPER}\n\n{USES}"),
    ("cut, a docstring never closed", SHORT + '\n    """Then', "truncated", SHORT),
    # nothing to find
    ("empty", "", "none", ""),
    ("white space", " \n\t\n ", "none", ""),
    ("prose only", "I cannot help with that.", "none", "I cannot help with that."),
    ("header only", "def add_all(items):", "none", "def add_all(items):"),
    ("other function", HELPER, "none", HELPER),
    ("other function, fenced", f"```python\n{HELPER}\n```", "none", HELPER),
    ("only a call", "add_all([1])", "none", "add_all([1])"),
    ("a method", "class A:\n    def add_all(self):\n        return 0", "none", "class A:\n    def add_all(self):\n        return 0"),
    ("broken beyond repair", "def add_all(items:\n    return sum(items)", "none", "def add_all(items:\n    return sum(items)"),
    ("NUL only", "\0\0\0", "none", ""),
]  # fmt: skip
