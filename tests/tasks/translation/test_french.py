"""Sentences whose French was written by hand."""

import pytest

from ebft.tasks.translation.english import english
from ebft.tasks.translation.french import conjugated, french, joined
from ebft.tasks.translation.sentences import NounPhrase, Sentence
from ebft.tasks.translation.words import ADJECTIVES, NOUNS, PLACES, TIMES, VERBS, Adjective, Phrase, Verb

NOUN = {noun.english: noun for noun in NOUNS}


def adjective(english: str) -> Adjective:
    return next(word for word in ADJECTIVES if word.english == english)


def verb(english: str) -> Verb:
    return next(word for word in VERBS if word.english == english)


def phrase(english: str) -> Phrase:
    return next(
        word for word in (*PLACES, *(word for words in TIMES.values() for word in words)) if word.english == english
    )


def one(determiner: str, noun: str, attribute: str = "") -> NounPhrase:
    return NounPhrase(determiner, NOUN[noun], False, adjective(attribute) if attribute else None)


def many(determiner: str, noun: str, attribute: str = "") -> NounPhrase:
    return NounPhrase(determiner, NOUN[noun], True, adjective(attribute) if attribute else None)


SENTENCES = [
    (
        Sentence(many("the", "cat", "small"), verb("sleep"), None, progressive=True),
        "the small cats are sleeping.",
        ["les petits chats dorment.", "les petits chats sont en train de dormir."],
    ),
    (
        Sentence("I", verb("love"), one("my", "school")),
        "I love my school.",
        ["j'aime mon école.", "j'adore mon école."],
    ),
    (
        Sentence(one("this", "man"), verb("buy"), one("a", "tree", "old"), "past"),
        "this man bought an old tree.",
        ["cet homme a acheté un vieil arbre."],
    ),
    (
        Sentence(one("the", "hero"), verb("see"), one("the", "axe")),
        "the hero sees the axe.",
        ["le héros voit la hache."],
    ),
    (
        Sentence("she", verb("drink"), one("", "water", "cold"), negative=True),
        "she does not drink cold water.",
        ["elle ne boit pas d'eau froide."],
    ),
    (Sentence("he", verb("eat"), one("", "bread", "good")), "he eats good bread.", ["il mange du bon pain."]),
    (Sentence("he", verb("eat"), one("", "soup")), "he eats soup.", ["il mange de la soupe."]),
    (
        Sentence("they", verb("leave"), None, "past", time=phrase("yesterday")),
        "they left yesterday.",
        ["ils sont partis hier.", "hier, ils sont partis.", "elles sont parties hier.", "hier, elles sont parties."],
    ),
    (
        Sentence("you", None, adjective("happy")),
        "you are happy.",
        [
            "tu es heureux.",
            "tu es content.",
            "tu es heureuse.",
            "tu es contente.",
            "vous êtes heureux.",
            "vous êtes content.",
            "vous êtes heureuse.",
            "vous êtes contente.",
            "vous êtes contents.",
            "vous êtes heureuses.",
            "vous êtes contentes.",
        ],
    ),
    (
        Sentence("you", verb("lose"), many("your", "key"), "past"),
        "you lost your keys.",
        ["tu as perdu tes clés.", "vous avez perdu vos clés."],
    ),
    (
        Sentence("Marie", verb("find"), many("", "hat", "beautiful"), "future"),
        "Marie will find beautiful hats.",
        [
            "Marie trouvera de beaux chapeaux.",
            "Marie trouvera des beaux chapeaux.",
            "Marie va trouver de beaux chapeaux.",
            "Marie va trouver des beaux chapeaux.",
        ],
    ),
    (
        Sentence("Paul", verb("find"), many("", "apple"), "past", negative=True),
        "Paul did not find apples.",
        ["Paul n'a pas trouvé de pommes."],
    ),
    (
        Sentence("I", verb("listen to"), one("the", "singer"), "past", progressive=True, negative=True),
        "I was not listening to the singer.",
        ["je n'écoutais pas le chanteur.", "je n'écoutais pas la chanteuse."],
    ),
    (
        Sentence(one("our", "friend"), verb("arrive"), None, "past"),
        "our friend arrived.",
        ["notre ami est arrivé.", "notre amie est arrivée."],
    ),
    (
        Sentence(many("two", "actress"), None, adjective("brave"), "past"),
        "two actresses were brave.",
        ["deux actrices étaient courageuses.", "deux actrices ont été courageuses."],
    ),
    (
        Sentence("we", verb("eat"), one("the", "cake"), progressive=True),
        "we are eating the cake.",
        ["nous mangeons le gâteau.", "nous sommes en train de manger le gâteau."],
    ),
    (
        Sentence(
            many("her", "horse", "white"), verb("run"), None, "future", place=phrase("on the beach"), negative=True
        ),
        "her white horses will not run on the beach.",
        [
            "ses chevaux blancs ne courront pas sur la plage.",
            "ses chevaux blancs ne courront pas à la plage.",
            "ses chevaux blancs ne vont pas courir sur la plage.",
            "ses chevaux blancs ne vont pas courir à la plage.",
        ],
    ),
    (
        Sentence(one("the", "woman"), verb("want"), one("his", "ladder"), "past"),
        "the woman wanted his ladder.",
        ["la femme voulait son échelle.", "la femme a voulu son échelle."],
    ),
    (
        Sentence(one("a", "girl"), verb("look at"), one("the", "elephant"), progressive=True),
        "a girl is looking at the elephant.",
        ["une fille regarde l'éléphant.", "une fille est en train de regarder l'éléphant."],
    ),
]


@pytest.mark.parametrize(("sentence", "in_english", "in_french"), SENTENCES, ids=[row[1] for row in SENTENCES])
def test_sentences_in_both_languages(sentence: Sentence, in_english: str, in_french: list[str]) -> None:
    assert next(english(sentence)) == in_english
    assert list(dict.fromkeys(french(sentence))) == in_french


@pytest.mark.parametrize(
    ("infinitive", "present", "imperfect", "future"),
    [
        (
            "manger",
            "mange manges mange mangeons mangez mangent",
            "mangeais mangeais mangeait mangions mangiez mangeaient",
            "mangerai mangeras mangera",
        ),
        (
            "finir",
            "finis finis finit finissons finissez finissent",
            "finissais finissais finissait finissions finissiez finissaient",
            "finirai",
        ),
        (
            "vendre",
            "vends vends vend vendons vendez vendent",
            "vendais vendais vendait vendions vendiez vendaient",
            "vendrai vendras vendra",
        ),
        (
            "être",
            "suis es est sommes êtes sont",
            "étais étais était étions étiez étaient",
            "serai seras sera serons serez seront",
        ),
        (
            "avoir",
            "ai as a avons avez ont",
            "avais avais avait avions aviez avaient",
            "aurai auras aura aurons aurez auront",
        ),
        (
            "voir",
            "vois vois voit voyons voyez voient",
            "voyais voyais voyait voyions voyiez voyaient",
            "verrai verras verra",
        ),
        (
            "étudier",
            "étudie étudies étudie étudions étudiez étudient",
            "étudiais étudiais étudiait étudiions étudiiez étudiaient",
            "étudierai",
        ),
        (
            "nettoyer",
            "nettoie nettoies nettoie nettoyons nettoyez nettoient",
            "nettoyais nettoyais nettoyait nettoyions",
            "nettoierai",
        ),
        (
            "commencer",
            "commence commences commence commençons commencez commencent",
            "commençais commençais commençait commencions",
            "commencerai",
        ),
    ],
)
def test_conjugations(infinitive: str, present: str, imperfect: str, future: str) -> None:
    for tense, forms in (("present", present), ("imperfect", imperfect), ("future", future)):
        assert [conjugated(infinitive, tense, person) for person in range(len(forms.split()))] == forms.split()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["je", "aime", "le", "âne"], "j'aime l'âne"),
        (["je", "ne", "aime", "pas", "le", "hibou"], "je n'aime pas le hibou"),
        (["de", "le", "pain"], "du pain"),
        (["de", "le", "ananas"], "de l'ananas"),
        (["de", "la", "eau"], "de l'eau"),
        (["de", "la", "soupe"], "de la soupe"),
        (["la", "hache", "est", "en train", "de", "être"], "la hache est en train d'être"),
        (["les", "œufs"], "les œufs"),
    ],
)
def test_elision_and_contraction(words: list[str], text: str) -> None:
    assert joined(words) == text
