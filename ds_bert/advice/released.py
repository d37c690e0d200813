"""Released models to go on from, by language."""

from typing import NamedTuple


class Released(NamedTuple):
    """A BERT-base of the hub, and the entries of its vocabulary."""

    name: str
    vocab_size: int


_OWN = {
    "en": Released("google-bert/bert-base-uncased", 30_522),
    "zh": Released("google-bert/bert-base-chinese", 21_128),
    "de": Released("google-bert/bert-base-german-cased", 30_000),
}
_MANY = Released("google-bert/bert-base-multilingual-cased", 119_547)
# The languages of that model by ISO 639; google-research/bert, multilingual.md.
_LANGUAGES = (
    "af sq ar an hy ast az ba eu bar be bn bpy bs br bg my ca ceb ce zh cv hr cs da nl en et fi",
    "fr gl ka de el gu ht he hi hu is io id ga it ja jv kn kk ky ko la lv lt lmo nds lb mk mg",
    "ms ml mr min mn ne new nb nn no oc fa pms pl pt pa ro ru sco sr sh scn sk sl azb es su sw",
    "sv tl tg ta tt te th tr uk ur uz vi vo war cy fy pnb yo",
)


def model_of(language: str | None) -> Released | None:
    """The released model of a language (ISO 639, such as "pt" or "pt-BR"); None: none known."""
    code = (language or "").lower().partition("-")[0]
    return _OWN.get(code) or (_MANY if code in " ".join(_LANGUAGES).split() else None)
