"""English to French and back: sentences from a small grammar with gender, number and agreement, with all the
translations that it knows.

A prompt is two lines, `English: the cats sleep.` and `French:` without a space after the colon; the answer begins with
that space and ends with a line end, ` les chats dorment.`, so that both tokenise alone as they do together. References
are bare sentences, the answer's first.
"""

from collections.abc import Iterator

from ebft.tasks.base import Question
from ebft.tasks.translation.english import english
from ebft.tasks.translation.french import french
from ebft.tasks.translation.sentences import Sentence, draw

NUM_QUESTIONS = 10_000
LANGUAGES = {"en": ("English", english), "fr": ("French", french)}


def questions(direction: str = "en-fr") -> Iterator[Question]:
    """Yields the same NUM_QUESTIONS sentences in the same order on every machine, `en-fr` or `fr-en`; a sentence has
    the same key in both."""
    seen: set[str] = set()
    number = 0
    while len(seen) < NUM_QUESTIONS:
        sentence = draw(number)
        number += 1
        if sentence is None:
            continue
        question = ask(sentence, direction)
        if question.prompt not in seen:
            seen.add(question.prompt)
            yield question


def ask(sentence: Sentence, direction: str) -> Question:
    (source_name, source), (target_name, target) = (LANGUAGES[language] for language in direction.split("-"))
    references = tuple(dict.fromkeys(target(sentence)))
    return Question(
        key=sentence.key,
        prompt=f"{source_name}: {next(source(sentence))}\n{target_name}:",
        answer=f" {references[0]}\n",
        origin=f"translation question {sentence.key!r}",
        references=references,
        direction=direction,
    )
