import re
import tracemalloc
from unicodedata import bidirectional, category, combining, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarstream.names import mend, segment, unique, unique_in_steps

MENDED = [
    # Nothing to mend.
    ("a", "a"),
    ("dir/sub dir/Grüße.tar.gz", "dir/sub dir/Grüße.tar.gz"),
    ("日本語/写真.jpg", "日本語/写真.jpg"),
    ("👩‍👩‍👧.png", "👩‍👩‍👧.png"),  # joined by U+200D, which is no control of direction
    (".bashrc", ".bashrc"),
    ("-rf", "-rf"),
    ("--checkpoint-action=exec=x", "--checkpoint-action=exec=x"),
    ("~/*?[x]{y}$z`id`;|&<>\"'!#%@^", "~/*?[x]{y}$z`id`;|&<>\"'!#%@^"),
    ("@x", "@x"),
    ("._x", "._x"),
    ("...", "..."),
    (" ", " "),
    # What only Windows refuses.
    ("aux.h", "aux.h"),
    ("dot./space /x. ", "dot./space /x. "),
    ("12:30.txt", "12:30.txt"),
    ("x/C:/y", "x/C:/y"),
    # Separators, absolute names, and names that lead out.
    ("a\\b/c", "a/b/c"),
    ("/abs", "abs"),
    ("//server/share", "server/share"),
    ("\\\\server\\share", "server/share"),
    ("\\\\?\\C:\\x", "?/C:/x"),
    ("../../etc/passwd", "etc/passwd"),
    ("..\\..\\etc\\passwd", "etc/passwd"),
    ("a/../b", "a/b"),
    ("a/./b//c/", "a/b/c"),
    ("", "unnamed"),
    ("/", "unnamed"),
    (".", "unnamed"),
    ("..", "unnamed"),
    ("./../\\", "unnamed"),
    # Drive letters, also where one is first only after something else was dropped.
    ("C:", "C_"),
    ("C:\\x", "C_/x"),
    ("c:d:x", "c_d:x"),
    ("/../C:/D:/x", "C_/D:/x"),
    ("\N{KELVIN SIGN}:/x", "K_/x"),
    # Characters.
    ("evil.exe\0.txt", "evil.exe_.txt"),
    ("\0", "_"),
    (".\0.", "._."),
    ("new\nline\r\ttab", "new_line__tab"),
    ("\x1b[31mred", "_[31mred"),
    ("\x7f\x80\x9f", "___"),
    ("a\N{RIGHT-TO-LEFT OVERRIDE}txt.exe", "a_txt.exe"),
    ("\u2028\u2029\u200e\u200f\u061c", "_____"),
    ("\ud800x\udfff", "_x_"),
    ("e\u0301/\u0301", "é/\u0301"),
    ("e\0\u0301", "e_\u0301"),
    ("가", "가"),
    # Combining marks, more than bsdtar has room for.
    ("q" + "\u0301" * 9, "q" + "\u0301" * 9),
    ("q" + "\u0301" * 10, "q" + "\u0301" * 9 + "_"),
    ("‐" + "\u0301" * 9 + "‐", "‐" + "\u0301" * 9 + "‐"),
    ("‐" + "\u0301" * 10 + "‐", "‐" + "\u0301" * 9 + "_‐"),
    ("q" + "\u0301" * 20, "q" + ("\u0301" * 9 + "_") * 2),
    ("q" + "\u0344" * 7, "q" + "\u0308\u0301" * 4 + "\u0308_" + "\u0308\u0301" * 2),
    ("é" + "\u0301" * 9, "é" + "\u0301" * 9),
    ("\u0345" * 200, ("\u0345" * 9 + "_") * 13 + "\u0345" * 4),
    ("שֳ\u05ae\u302b", "שֳ__"),
    ("‐" * 20, "‐" * 20),
    # What would make bsdtar take an archive for a bzip2 stream.
    ("BZh91AY&SY", "_Zh91AY&SY"),
    ("x/BZh11AY&SY.txt", "x/_Zh11AY&SY.txt"),
    ("\\BZh91AY&SYé", "_Zh91AY&SYé"),
    ("BZh91AY.bz2", "BZh91AY.bz2"),
    ("xBZh91AY&SY", "xBZh91AY&SY"),
    # Long segments: the stem is cut, the suffix stays.
    ("x" * 255, "x" * 255),
    ("x" * 256, "x" * 255),
    ("x" * 300 + ".txt", "x" * 251 + ".txt"),
    ("x" * 300 + ".TAR.gz", "x" * 248 + ".TAR.gz"),
    ("x" * 300 + "." + "y" * 16, "x" * 238 + "." + "y" * 16),
    ("x" * 300 + "." + "y" * 17, "x" * 255),
    ("x" * 250 + ". no suffix", "x" * 250 + ". no "),
    ("." + "x" * 300, "." + "x" * 254),
    ("." * 300 + "txt", "." * 255),
    ("x" * 2000 + "/" + "y" * 2000 + ".d/z", "x" * 255 + "/" + "y" * 253 + ".d/z"),
    ("ü" * 128, "ü" * 127),
    ("x" + "😀" * 64 + ".jpg", "x" + "😀" * 62 + ".jpg"),
    ("u\u0308" * 127, "ü" * 127),
    ("\u1100\u1161\u11a8" * 85, "각" * 85),
    # Long names: the directories nearest to the file are left out.
    ("d/" * 511 + "fg", "d/" * 511 + "fg"),
    ("d/" * 512 + "fg", "d/" * 511 + "fg"),
    ("d/" * 1000 + "x" * 255, "d/" * 384 + "x" * 255),
    (
        f"d/{'e' * 255}/{'f' * 255}/{'g' * 255}/{'h' * 255}/i",
        f"d/{'e' * 255}/{'f' * 255}/{'g' * 255}/i",
    ),
]

HOSTILE = [name for name, _ in MENDED]

UNIQUE = [
    ([], []),
    (["a", "b"], ["a", "b"]),
    (["x.txt", "x.txt", "x.txt"], ["x.txt", "x (2).txt", "x (3).txt"]),
    (["archive.tar.gz"] * 2, ["archive.tar.gz", "archive (2).tar.gz"]),
    (["a.b.c"] * 2, ["a.b.c", "a.b (2).c"]),
    ([".bashrc"] * 2, [".bashrc", ".bashrc (2)"]),
    ([".bashrc.d"] * 2, [".bashrc.d", ".bashrc (2).d"]),
    ([".tar"] * 2, [".tar", ".tar (2)"]),
    ([".tar.gz"] * 2, [".tar.gz", ".tar (2).gz"]),
    (["..."] * 2, ["...", "... (2)"]),
    (["x."] * 2, ["x.", "x. (2)"]),
    (["Mr. Smith"] * 2, ["Mr. Smith", "Mr. Smith (2)"]),
    (["v1.d/x"] * 2, ["v1.d/x", "v1.d/x (2)"]),
    # Collisions that appear only after mending, folding and NFC.
    (["", "..", "unnamed"], ["unnamed", "unnamed (2)", "unnamed (3)"]),
    (["a/b", "a\\b", "../a//b"], ["a/b", "a/b (2)", "a/b (3)"]),
    (["README", "Readme"], ["README", "Readme (2)"]),
    (["A/x", "a/X"], ["A/x", "a/X (2)"]),
    (["A/x", "a/y"], ["A/x", "a/y"]),
    (["straße", "STRASSE"], ["straße", "STRASSE (2)"]),
    (["é", "E\u0301"], ["é", "É (2)"]),
    (["\u0390", "\u03aa\u0301"], ["\u0390", "\u03aa\u0301 (2)"]),
    (["x" * 256, "x" * 257], ["x" * 255, "x" * 244 + " (2)"]),
    # Names that are in the way of a number keep themselves.
    (["a", "a", "a (2)"], ["a", "a (3)", "a (2)"]),
    (["a", "A", "a (2)", "A (3)/x"], ["a", "A (4)", "a (2)", "A (3)/x"]),
    (["a (2)", "a (2)", "a", "a"], ["a (2)", "a (2) (2)", "a", "a (3)"]),
    # A file and a directory, in any order.
    (["a", "a/b"], ["a (2)", "a/b"]),
    (["a/b", "a"], ["a/b", "a (2)"]),
    (["A", "a/b"], ["A (2)", "a/b"]),
    (["x/y.txt", "x/y.txt/z"], ["x/y (2).txt", "x/y.txt/z"]),
    (["a", "a/b", "a/b/c"], ["a (2)", "a/b (2)", "a/b/c"]),
    (["a", "a!", "a-", "a/b"], ["a (2)", "a!", "a-", "a/b"]),
    (["a", "a", "a/b", "a (2)/b"], ["a (3)", "a (4)", "a/b", "a (2)/b"]),
    # Empty directories: a slash at the end, which they keep.
    (["a/"], ["a/"]),
    (["a//", "b/./", "c\\d/", "/e/", "../f/", "g\n/"], ["a/", "b/", "c/d/", "e/", "f/", "g_/"]),
    (["/", "../", "", "./"], ["unnamed/", "unnamed/", "unnamed (2)", "unnamed/"]),
    (["a\\"], ["a"]),
    (["C:/", "x" * 300 + "/"], ["C_/", "x" * 255 + "/"]),
    # It does not count.
    (["d/" * 511 + "fg/"], ["d/" * 511 + "fg/"]),
    (["d/" * 512 + "fg/"], ["d/" * 511 + "fg/"]),
    # They do not collide with each other, nor with what is in them.
    (["a/", "a/", "A/", "a/b", "a/b/c/"], ["a/", "a/", "A/", "a/b (2)", "a/b/c/"]),
    (["a/b/c", "a/", "a/b/"], ["a/b/c", "a/", "a/b/"]),
    (["é/", "E\u0301/"], ["é/", "É/"]),
    # A file and a directory of its name, in any order, and one above it.
    (["a", "a/"], ["a (2)", "a/"]),
    (["a/", "a"], ["a/", "a (2)"]),
    (["A.txt", "a.TXT/"], ["A (2).txt", "a.TXT/"]),
    (["a", "a/b/"], ["a (2)", "a/b/"]),
    (["a/b/", "a", "a/b"], ["a/b/", "a (2)", "a/b (2)"]),
    (["a", "a!", "a/"], ["a (2)", "a!", "a/"]),
    # One that is in the way of a number keeps itself.
    (["a", "a", "a (2)/"], ["a", "a (3)", "a (2)/"]),
    (["a (2)/", "a", "a/", "A (3)/", "a"], ["a (2)/", "a (4)", "a/", "A (3)/", "a (5)"]),
    # Room for a number: a shorter stem, fewer directories.
    (["x" * 251 + ".txt"] * 2, ["x" * 251 + ".txt", "x" * 240 + " (2).txt"]),
    (["😀" * 63] * 2, ["😀" * 63, "😀" * 61 + " (2)"]),
    (["d/" * 511 + "fg"] * 2, ["d/" * 511 + "fg", "d/" * 505 + "fg (2)"]),
    (["d/" * 506 + "it.tar.gz"] * 2, ["d/" * 506 + "it.tar.gz", "d/" * 502 + "it (2).tar.gz"]),
]  # fmt: skip

# Of the private planes 15 and 16 some stand for all.
ASSIGNED = [chr(code) for code in range(0xF1000) if category(chr(code)) != "Cn"]

FRAGMENTS = [
    "/", "\\", ".", "..", " ", ":", "C:", " (2)", "(3)", ".txt", ".TAR", ".gz", "BZh91AY&SY", "-",
    "a", "A", "b", "é", "e\u0301", "ß", "ss", "\u0345", "\u0327", "\u1100", "\u1161", "\u212a",
    "\0", "\n", "\x1b", "\x85", "\u202e", "\u2028", "\ud800", "\ud83d", "\ude00", "😀", "ﬀ", "İ",
    "x" * 120, "x" * 253, "y/" * 400, "a/", "😀" * 60, "\u0344" * 90,
    "\u302b", "\u05b0\u05b1\u05b2\u05b3", "\u05b4\u05b5\u05b6\u05b7", "\u05bf\u05c1\u0301",
]  # fmt: skip

hostile_name = st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join)
anything = st.text(st.characters(codec=None))
any_name = st.one_of(hostile_name, anything, st.sampled_from(HOSTILE))
a_few = st.sampled_from([*"abA", "a/", "b/", "a/b", "a/b/", "a (2)", "a (2)/", "A/", "a (3)/b/"])
any_names = (
    st.lists(any_name | any_name.map("{}/".format), max_size=12)
    | st.lists(hostile_name, max_size=40)
    | st.lists(a_few, max_size=12)
)


def is_safe(name):
    marks = "".join("m" if combining(character) else "-" for character in name)
    directions = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return (
        all(part and part not in {".", ".."} for part in name.split("/"))
        and all(len(part.encode("utf-8", "surrogatepass")) <= 255 for part in name.split("/"))
        and len(name.encode("utf-8", "surrogatepass")) <= 1024
        and name == normalize("NFC", name)
        and "m" * 10 not in marks
        and not any(category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in name)
        and not any(bidirectional(character) in directions for character in name)
        and not re.search("[\\\\\u061c\u200e\u200f]", name)
        and not re.match("[A-Za-z]:", name)
    )


def folded(name):
    return normalize("NFC", name.casefold())


def shown(value):
    """Part of a test's name. Each time that a process collects tests, backslashes are doubled."""
    return ascii(value)[:40].replace("\\", "~")


def apart(names):
    """Names but for their slash, each directory's once: those of files are to differ."""
    files = [folded(name) for name in names if not name.endswith("/")]
    return files, {folded(name[:-1]) for name in names if name.endswith("/")}


def directories(name):
    return [name[: match.start()] for match in re.finditer("/", name)]


@pytest.mark.parametrize(("name", "expected"), MENDED, ids=shown)
def test_a_name_is_mended(name, expected):
    assert mend(name) == expected
    assert is_safe(expected)


@given(any_name)
def test_a_mended_name_is_safe(name):
    assert is_safe(mend(name))


@given(any_name)
def test_a_mended_name_is_returned_itself(name):
    mended = mend(name)
    assert mend(mended) is mended


def test_each_code_point_is_kept_or_replaced():
    def expected(character):
        composed = normalize("NFC", character)
        kept = character == "." or (is_safe(composed) and combining(character) != 228)
        return composed if kept else "_"

    characters = [character for character in ASSIGNED if character not in "-/\\"]
    for start in range(0, len(characters), 16):
        some = characters[start : start + 16]
        assert mend("-".join(some)).split("-") == [expected(character) for character in some]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("report.pdf", "report.pdf"),
        ("a/b\\c.tar", "a_b_c.tar"),
        ("../../etc/passwd", ".._.._etc_passwd"),
        ("/", "_"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("C:\\x", "C__x"),
        ("x\r\nSet-Cookie: y", "x__Set-Cookie: y"),
        ("ü/" * 300 + ".tar", "ü_" * 83 + "ü.tar"),
    ],
)
def test_a_segment_is_one_safe_segment(name, expected):
    assert segment(name) == expected


@given(any_name)
def test_any_name_gives_one_safe_segment(name):
    assert is_safe(segment(name))
    assert "/" not in segment(name)
    assert segment(segment(name)) == segment(name)


def test_names_become_unique_as_those_whom_they_are_mended_for_see_them():
    assert unique(["a", "A"], str.upper) == ["A", "A (2)"]


@pytest.mark.parametrize(("before", "after"), UNIQUE, ids=shown)
def test_names_become_unique(before, after):
    assert unique(before) == after


@given(any_names)
def test_unique_names_are_safe_and_as_many(before):
    result = unique(before)
    assert len(result) == len(before)
    assert all(is_safe(name.removesuffix("/")) for name in result)


@given(any_names)
def test_a_directory_stays_one_and_a_file_too(before):
    for name, result in zip(before, unique(before), strict=True):
        assert result.endswith("/") == name.endswith("/")
        if name.endswith("/"):
            assert result == mend(name) + "/"


@given(any_names)
def test_unique_names_do_not_collide(before):
    files, found = apart(unique(before))
    found |= {directory for name in [*files, *found] for directory in directories(name)}
    assert len(set(files)) == len(files)
    assert found.isdisjoint(files)


@given(any_names)
def test_unique_names_stay_as_they_are(before):
    result = unique(before)
    again = unique(result)
    assert again == result
    assert all(new is old for new, old in zip(again, result, strict=True) if not old.endswith("/"))


@given(any_names)
def test_a_name_that_comes_first_and_is_no_directory_keeps_itself(before):
    mended = [f"{mend(name)}/" if name.endswith("/") else mend(name) for name in before]
    seen = {folded(directory) for name in mended for directory in directories(name)}
    for name, result in zip(mended, unique(before), strict=True):
        assert (name == result) == (name.endswith("/") or folded(name) not in seen)
        seen.add(folded(name))


@given(any_names)
def test_a_numbered_file_stays_in_its_directory_or_above(before):
    files = [name for name in before if not name.endswith("/")]
    for name, result in zip(map(mend, files), unique(files), strict=True):
        assert name.startswith(result.rpartition("/")[0])


def test_clean_names_are_shared():
    clean = [f"project/{index % 100}/übung {index}.tar.gz" for index in range(1000)]
    assert all(new is old for new, old in zip(unique(clean), clean, strict=True))


@pytest.mark.parametrize("number", [0, 1, 2, 256, 257, 2560])
def test_others_can_run_between_every_256_names(number):
    """While names are mended, while those that collide are found, and while these are numbered."""
    rounds = -(-number // 256) + -(-number // 256) + -(-max(number - 1, 0) // 256)
    assert len(list(unique_in_steps(["x.txt"] * number))) == rounds


LONG = ["p" * 249 + f"{index:06}" for index in range(20_000)]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(["x.txt"] * 100_000, id="equal"),
        pytest.param(["x", "X"] * 50_000, id="equal but for case"),
        pytest.param(
            ["a"] * 50_000 + [f"a ({number})" for number in range(2, 50_002)], id="numbers taken"
        ),
        pytest.param(
            ["a"] * 50_000 + [f"A ({number})/b" for number in range(2, 50_002)],
            id="numbers taken by directories",
        ),
        pytest.param(["a" + " (2)" * (index // 2) for index in range(120)] * 800, id="chains"),
        pytest.param(LONG * 2, id="cut to the same stem"),
        pytest.param(LONG + [name + "/x" for name in LONG], id="directories cut to the same stem"),
        pytest.param(
            [f"{'d/' * 385}{name}" for name in LONG[:5_000]] * 2, id="directories left out"
        ),
        pytest.param([f"{index}{'/d' * 500}" for index in range(2_000)] * 2, id="deep"),
        pytest.param(["a" + "\u0300\u0316" * 100_000 + ".txt"] * 10, id="combining marks"),
        pytest.param(
            [("a" + "\u0300\u0316" * 500 + "/") * 200 + "b"] * 10, id="marks in directories"
        ),
        pytest.param([".a" * 100_000 + " ", "." * 200_000 + "a", ".tar" * 50_000] * 5, id="dots"),
        pytest.param(
            ["\\" * 1_000_000, "a/" * 500_000 + "b", "../" * 300_000 + "c"] * 2, id="separators"
        ),
        pytest.param(["a"] * 50_000 + ["a/"] * 50_000, id="directories of a file's name"),
        pytest.param(
            ["a"] * 50_000 + [f"a ({number})/" for number in range(2, 50_002)],
            id="numbers taken by empty directories",
        ),
        pytest.param([f"{index}{'/d' * 500}/" for index in range(2_000)] * 2, id="deep and empty"),
    ],
)
def test_adversarial_names_take_linear_time(before):
    """Quadratic work would exceed the time limit of a test."""
    files, found = apart(unique(before))
    assert len(set(files)) == sum(not name.endswith("/") for name in before)
    assert found.isdisjoint(files)


def test_deep_names_take_linear_space():
    """All directories above 1,000 deep names, as strings, would have 250 MB."""
    deep = [f"{index:03}{'/d' * 510}" for index in range(1000)]
    tracemalloc.start()
    try:
        unique(deep)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * sum(map(len, deep))
