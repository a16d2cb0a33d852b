"""The parts that questions about Python functions are made of: where values come from, which of them count, what
becomes of each, what is returned.

English stands around braces and Python around dollar names, so that neither gets in the way of the other's braces.
`$xs` is the argument, `$x` a value; `$n`, `$p`, `$k` and `$c` are constants that a question draws: a bound, a divisor,
an operand, a letter.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A place that values come from."""

    name: str
    inputs: str  # what arguments hidden tests use, a key of code_inputs.ARGUMENT_NAMES
    element: str  # number, character or word
    noun: str
    place: str
    target: str  # of `for`
    iterable: str
    value: str  # the name of what conditions test
    item: str  # the name of what is taken

    @property
    def by_value(self) -> bool:
        """Whether items are chosen by something other than themselves."""
        return self.value != self.item


@dataclass(frozen=True)
class Condition:
    """Which values count. The first phrase without its braces can follow `is` or `are`, of a number."""

    name: str
    phrases: tuple[str, ...]  # around a plural
    code: str


@dataclass(frozen=True)
class Transform:
    """What becomes of each value."""

    name: str
    series: str  # around many
    their: str  # of many that were named before
    single: str  # around one
    code: str
    result: str = "number"


@dataclass(frozen=True)
class Aggregate:
    """What is made of all values.

    Phrases are around {things}, such as `odd numbers in x`, or {series}, such as `the squares of the odd numbers in x`.
    In spellings, `$gen` is `item for target in iterable if test`; `$values` the same and `$all` the same as a list, or
    both the iterable itself where nothing is done to it; `$map` a call of map or filter. Spellings that use what a
    meaning has not are left out. A loop is a start, a step that takes `$e`, an end.
    """

    name: str
    elements: str  # what may be aggregated
    phrases: tuple[str, ...]
    spellings: tuple[str, ...]
    loop: tuple[str, str, str] | None
    function_names: tuple[str, ...]
    plain: bool = False  # worth asking of all values as they are
    of_transformed: bool = True  # worth asking of transformed values


LIST = Source("list", "numbers", "number", "numbers", "in $xs", "x", "$xs", "x", "x")
SHORT = Source(
    "list", "short", "number", "numbers", "in $xs", "x", "$xs", "x", "x"
)  # all of whose numbers may meet a condition
RANGE = Source("range", "limit", "number", "numbers", "from 1 to $xs", "x", "range(1, $xs + 1)", "x", "x")
DIGITS = Source("digits", "digits", "number", "digits", "in $xs", "d", "map(int, str($xs))", "d", "d")
VALUES = Source("values", "table", "number", "values", "in the dictionary $xs", "v", "$xs.values()", "v", "v")
KEYS = Source("keys", "table", "word", "keys", "in the dictionary $xs", "k, v", "$xs.items()", "v", "k")
CHARACTERS = Source("characters", "text", "character", "characters", "in the string $xs", "c", "$xs", "c", "c")
WORDS = Source("words", "words", "word", "words", "in the list $xs", "w", "$xs", "w", "w")
SPLIT = Source("split", "sentence", "word", "words", "in the string $xs", "w", "$xs.split()", "w", "w")
UNSIGNED = (RANGE, DIGITS)

EVEN = Condition("even", ("even {}",), "$x % 2 == 0")
ODD = Condition("odd", ("odd {}",), "$x % 2 == 1")
POSITIVE = Condition("positive", ("positive {}",), "$x > 0")
NEGATIVE = Condition("negative", ("negative {}",), "$x < 0")
BOUNDS = (
    Condition("above", ("{} greater than $n", "{} above $n"), "$x > $n"),
    Condition("below", ("{} less than $n", "{} below $n"), "$x < $n"),
    Condition("at_least", ("{} that are at least $n", "{} not below $n"), "$x >= $n"),
    Condition("at_most", ("{} that are at most $n", "{} not above $n"), "$x <= $n"),
)
UNEQUAL = Condition("unequal", ("{} different from $n", "{} other than $n"), "$x != $n")
DIVISIBLE = Condition("divisible", ("{} divisible by $p",), "$x % $p == 0")
INDIVISIBLE = Condition("indivisible", ("{} not divisible by $p",), "$x % $p != 0")

SINGLE_CONDITIONS = tuple((one,) for one in (EVEN, ODD, POSITIVE, NEGATIVE, *BOUNDS, UNEQUAL, DIVISIBLE, INDIVISIBLE))
DOUBLE_CONDITIONS = tuple(
    (one, two) for one in (EVEN, ODD) for two in (POSITIVE, NEGATIVE, *BOUNDS, DIVISIBLE, INDIVISIBLE)
) + tuple((one, two) for one in (POSITIVE, NEGATIVE) for two in (DIVISIBLE, INDIVISIBLE))
CONDITIONS = {
    "number": ((), *SINGLE_CONDITIONS, *DOUBLE_CONDITIONS),
    "character": tuple(
        (Condition(name, (phrase,), code),)
        for name, phrase, code in (
            ("vowel", "vowels", '$x in "aeiou"'),
            ("other_than_vowel", "{} other than vowels", '$x not in "aeiou"'),
            ("digit", "digits", "$x.isdigit()"),
            ("other_than_digit", "{} other than digits", "not $x.isdigit()"),
            ("letter", "letters", "$x.isalpha()"),
            ("other_than_letter", "{} other than letters", "not $x.isalpha()"),
            ("upper", "uppercase letters", "$x.isupper()"),
            ("lower", "lowercase letters", "$x.islower()"),
            ("other_than_space", "{} other than spaces", '$x != " "'),
            ("same", "{} equal to '$c'", '$x == "$c"'),
            ("other", "{} other than '$c'", '$x != "$c"'),
        )
    ),
    "word": (
        (),
        *(
            (Condition(name, phrases, code),)
            for name, phrases, code in (
                ("longer", ("{} longer than $n letters", "{} of more than $n letters"), "len($x) > $n"),
                ("shorter", ("{} shorter than $n letters", "{} of fewer than $n letters"), "len($x) < $n"),
                ("length", ("{} of exactly $n letters", "{} of length $n"), "len($x) == $n"),
                ("starting", ("{} starting with '$c'", "{} that begin with '$c'"), '$x.startswith("$c")'),
                ("ending", ("{} ending with '$c'", "{} that end in '$c'"), '$x.endswith("$c")'),
                ("containing", ("{} containing '$c'", "{} with '$c' in them"), '"$c" in $x'),
                ("lacking", ("{} without '$c'", "{} not containing '$c'"), '"$c" not in $x'),
            )
        ),
    ),
}

TRANSFORMS = {
    "number": (
        Transform("square", "the squares of the {}", "their squares", "the square of {}", "$x ** 2"),
        Transform("double", "the doubles of the {}", "their doubles", "the double of {}", "$x * 2"),
        Transform("cube", "the cubes of the {}", "their cubes", "the cube of {}", "$x ** 3"),
        Transform("negate", "the negatives of the {}", "their negatives", "the negative of {}", "-$x"),
        Transform(
            "absolute", "the absolute values of the {}", "their absolute values", "the absolute value of {}", "abs($x)"
        ),
        Transform(
            "half",
            "the halves, rounded down, of the {}",
            "their halves rounded down",
            "half of {} rounded down",
            "$x // 2",
        ),
        Transform("plus", "the {}, each increased by $k", "themselves plus $k", "$k more than {}", "$x + $k"),
        Transform("minus", "the {}, each decreased by $k", "themselves minus $k", "$k less than {}", "$x - $k"),
        Transform(
            "times", "the {}, each multiplied by $k", "themselves times $k", "the product of $k and {}", "$x * $k"
        ),
        Transform(
            "modulo", "the remainders by $k of the {}", "their remainders by $k", "the remainder by $k of {}", "$x % $k"
        ),
    ),
    "character": (
        Transform("upper", "the upper case forms of the {}", "their upper case forms", "", "$x.upper()", "character"),
        Transform("doubled", "the {}, each written twice", "two of each", "", "$x * 2", "character"),
    ),
    "word": (
        Transform("upper", "the upper case forms of the {}", "their upper case forms", "", "$x.upper()", "word"),
        Transform(
            "capital", "the capitalised forms of the {}", "their capitalised forms", "", "$x.capitalize()", "word"
        ),
        Transform("reversed", "the reversals of the {}", "their reversals", "", "$x[::-1]", "word"),
        Transform("first", "the first letters of the {}", "their first letters", "", "$x[0]", "word"),
        Transform("last", "the last letters of the {}", "their last letters", "", "$x[-1]", "word"),
        Transform("length", "the lengths of the {}", "their lengths", "", "len($x)"),
    ),
}

ZERO = Transform("zero", "", "0", "0", "0")
STAR = Transform("star", "", "'*'", "'*'", '"*"', "character")

AGGREGATES = (
    Aggregate(
        "sum",
        "number",
        ("the sum of {series}", "the total of {series}"),
        ("return sum($values)", "return sum($map)"),
        ("total = 0", "total += $e", "return total"),
        ("total", "add_up"),
        plain=True,
    ),
    Aggregate(
        "product",
        "number",
        ("the product of {series}",),
        (),
        ("result = 1", "result *= $e", "return result"),
        ("product", "multiply"),
        plain=True,
    ),
    Aggregate(
        "largest",
        "number",
        ("the largest of {series}, or 0 if none", "the maximum of {series}, or 0 if none"),
        ("return max($all, default=0)", "found = $all\nreturn max(found) if found else 0"),
        None,
        ("largest", "maximum"),
        plain=True,
    ),
    Aggregate(
        "smallest",
        "number",
        ("the smallest of {series}, or 0 if none", "the minimum of {series}, or 0 if none"),
        ("return min($all, default=0)", "found = $all\nreturn min(found) if found else 0"),
        None,
        ("smallest", "minimum"),
        plain=True,
    ),
    Aggregate(
        "count",
        "number character word",
        ("the number of {things}", "how many {things} there are"),
        ("return len($all)", "return sum(1 for $target in $it if $test)"),
        ("count = 0", "count += 1", "return count"),
        ("count", "how_many"),
        of_transformed=False,
    ),
    Aggregate(
        "distinct",
        "number character word",
        ("the number of different {things}", "how many different {things} there are"),
        ("return len(set($values))", "return len({$gen})"),
        None,
        ("distinct", "count_unique"),
        plain=True,
        of_transformed=False,
    ),
    Aggregate(
        "list",
        "number character word",
        ("a list of {series}", "the list of {series}"),
        ("return [$gen]", "return list($map)"),
        ("result = []", "result.append($e)", "return result"),
        ("select", "collect", "pick"),
    ),
    Aggregate(
        "sorted",
        "number word",
        ("a sorted list of {series}", "a list of {series}, in ascending order"),
        ("return sorted($all)", "return sorted($map)", "result = $all\nreturn sorted(result)"),
        None,
        ("ordered", "arrange"),
        plain=True,
    ),
    Aggregate(
        "descending",
        "number word",
        ("a list of {series}, in descending order", "a list of {series}, sorted in reverse"),
        ("return sorted($all, reverse=True)", "return sorted($all)[::-1]"),
        None,
        ("descending", "rank"),
        plain=True,
    ),
    Aggregate(
        "backwards",
        "number character word",
        ("a list of {series}, in reverse order", "a list of {series}, back to front"),
        ("return [$gen][::-1]", "return list($map)[::-1]"),
        None,
        ("backwards", "reverse"),
    ),
    Aggregate(
        "first",
        "number character word",
        ("the first of {series}, or None if there is none",),
        ("return next(($gen), None)", "found = [$gen]\nreturn found[0] if found else None"),
        ("", "return $e", "return None"),
        ("first", "find"),
    ),
    Aggregate(
        "any",
        "number character word",
        ("whether there are any {things}", "True if there are {things}, otherwise False"),
        ("return any($test for $target in $it)", "return len($all) > 0"),
        ("", "return True", "return False"),
        ("has_any", "contains"),
        of_transformed=False,
    ),
    Aggregate(
        "none",
        "number character word",
        ("whether there are no {things}", "False if there are {things}, otherwise True"),
        ("return not any($test for $target in $it)", "return len($all) == 0"),
        ("", "return False", "return True"),
        ("has_none", "lacks"),
        of_transformed=False,
    ),
    Aggregate(
        "joined",
        "character",
        ("a text of {series}", "the text made of {series}"),
        ('return "".join($gen)', 'return "".join($map)'),
        ('result = ""', "result += $e", "return result"),
        ("keep", "extract"),
    ),
    Aggregate(
        "spaced",
        "word",
        ("a text of {series} with spaces between", "{series} joined by spaces"),
        ('return " ".join($gen)', 'return " ".join($map)', 'result = [$gen]\nreturn " ".join(result)'),
        None,
        ("sentence", "join"),
    ),
)

# Of one text, to be nested.
TEXT_TRANSFORMS = (
    Transform("upper", "", "", "the upper case of {}", "$x.upper()", "text"),
    Transform("capital", "", "", "the capitalised form of {}", "$x.capitalize()", "text"),
    Transform("reversed", "", "", "the reversal of {}", "$x[::-1]", "text"),
    Transform("start", "", "", "the first $k characters of {}", "$x[:$k]", "text"),
    Transform("end", "", "", "the last $k characters of {}", "$x[-$k:]", "text"),
    Transform("tail", "", "", "all but the first $k characters of {}", "$x[$k:]", "text"),
    Transform("head", "", "", "all but the last $k characters of {}", "$x[:-$k]", "text"),
    Transform("copies", "", "", "$k copies of {}", "$x * $k", "text"),
    Transform("length", "", "", "the length of {}", "len($x)"),
)

# Of two arguments: a name, English, Python.
BINARY = (
    ("sum", "the sum of $xs and $ys", "$xs + $ys"),
    ("difference", "the difference of $xs and $ys", "$xs - $ys"),
    ("product", "the product of $xs and $ys", "$xs * $ys"),
    ("larger", "the larger of $xs and $ys", "max($xs, $ys)"),
    ("smaller", "the smaller of $xs and $ys", "min($xs, $ys)"),
    ("distance", "the distance between $xs and $ys", "abs($xs - $ys)"),
)
COMPARISONS = (
    ("greater", "$xs is greater than $ys", "$xs > $ys"),
    ("less", "$xs is less than $ys", "$xs < $ys"),
    ("equal", "$xs equals $ys", "$xs == $ys"),
    ("both_even", "$xs and $ys are both even", "$xs % 2 == 0 and $ys % 2 == 0"),
)
