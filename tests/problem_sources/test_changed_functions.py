"""Which functions a commit changes, by syntax trees."""

import pytest

from coral_core.problem_sources.history.changed_functions import FileVersions, compare

OLD = '''
LIMIT = 3

def plain(a):
    """Old words."""
    return helper(a)

def helper(a: int) -> int:
    return a + 1

if LIMIT:
    def guarded(a):
        return a

class Box:
    def put(self, a):
        return a

    class Inner:
        def get(self):
            return 1
'''


def changed(*edits: tuple[str, str]) -> list[str]:
    new = OLD
    for old, text in edits:
        assert old in new
        new = new.replace(old, text)
    return sorted(compare([FileVersions("m.py", "m.py", OLD.encode(), new.encode())]).changed)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (("a + 1", "a + 2"), ["m.py:helper"]),
        (("Old words", "New words"), []),
        ((") -> int", ")"), []),
        (("a: int", "a"), []),
        (("    return helper(a)", "    # why\n    return helper( a )"), []),
        (("LIMIT = 3", "LIMIT = 4"), []),
        (("        return a\n\nclass", "        return -a\n\nclass"), ["m.py:guarded"]),
        (("        return a\n\n    class", "        return -a\n\n    class"), ["m.py:Box.put"]),
        (("return 1", "return 2"), ["m.py:Box.Inner.get"]),
        (("def plain(a)", "def plain(a, b=2)"), ["m.py:plain"]),
    ],
)
def test_only_code_of_functions_counts(edit: tuple[str, str], expected: list[str]) -> None:
    assert changed(edit) == expected


def test_tests_are_sought_by_the_names_of_functions_that_use_the_changed_one() -> None:
    found = compare([FileVersions("m.py", "m.py", OLD.encode(), OLD.replace("a + 1", "a").encode())])
    assert found.names == {"helper", "plain"}


def test_renamed_added_and_moved_functions() -> None:
    new = OLD.replace("helper", "assistant").replace("return 1", "return 2") + "\ndef more():\n    return 1\n"
    found = compare([FileVersions("old.py", "new.py", OLD.encode(), new.encode())])
    assert found.renamed == ["helper → assistant"] and found.added == 1
    assert found.changed == {"new.py:plain": "old.py:plain", "new.py:Box.Inner.get": "old.py:Box.Inner.get"}


def test_a_file_that_does_not_parse_is_named_and_others_count() -> None:
    broken = [
        FileVersions("two.py", "two.py", b"print 'Python 2'\n", b"print('3')\n"),
        FileVersions("bytes.py", "bytes.py", b"a = '\xff'\n", b"a = 1\n"),
        FileVersions("deep.py", "deep.py", b"a = " + b"(" * 5000 + b"1" + b")" * 5000, b"a = 1\n"),
        FileVersions("nul.py", "nul.py", b"a = 1\0\n", b"a = 1\n"),
    ]
    good = FileVersions("m.py", "m.py", OLD.encode(), OLD.replace("a + 1", "a").encode())
    found = compare([*broken, good])
    assert list(found.changed) == ["m.py:helper"]
    assert [text.partition(":")[0] for text in found.unparsable] == ["two.py", "bytes.py", "deep.py", "nul.py"]
