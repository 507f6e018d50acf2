"""Penn Treebank tokens of a caption as pycocoevalcap makes them, without Java.

pycocoevalcap sends captions through Stanford CoreNLP 3.4.1 (``PTBTokenizer -preserveLines
-lowerCase``) and drops the tokens of `PUNCTUATION`. The rules below describe what that program
prints, seen from outside; on the 148,915 captions of Flickr30k they give other tokens for 15, most
of them quotation marks, which are dropped. (The corpus is also what the rules were fitted on.)
At each position the rule that reaches furthest is taken, the earlier of two that reach as far.

Habits of the original that scores in print contain, and that are kept: brackets become ``-lrb-``
and stay (the list of punctuation has them in capitals, the text is in lower case by then); so do
``!!``, ``#``, ``$``, ``&`` and ``/``; a single letter keeps its full stop (``in a.``); ``bench.a``
is one token; ``1 1/2`` is one, held by a no-break space. One habit is not: the original reads the
start of the *next* caption to judge a full stop that ends this one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# the list of pycocoevalcap/tokenizer/ptbtokenizer.py
PUNCTUATION = frozenset([
    "''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-",
    ".", "?", "!", ",", ":", "-", "--", "...", ";",
])  # fmt: skip
# words that keep their full stop: always, only when capitalised, only before a number
ABBREVIATIONS = """
adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bhd bldg blvd brig bros calif
capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc
ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut
lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov
oct okla penn pfc ph plc ppte ppty pres prof pte ptes pty ptys pvt rd rep reps rev rt sen sens sep
sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs treas tue tues univ va vs vt wed wis
wisc wm wyo
"""
CAPITALISED = """
Ark Az Del Ill La Mass Miss Ore Pa Tex Wash ARK AZ DEL ILL LA MASS MISS ORE PA TEX WASH
"""
BEFORE_NUMBER = "art ca fig figs no nos op pp prop"
# a single letter loses its full stop before these: "plan B. The dog"
SENTENCE_STARTS = """
A About After An As At He Her Here If In It Many More Now One Other Our She Since So Some Such That
The Their There These They This We What When While You
"""


def _any(words: str) -> str:
    """A pattern for one of the words."""
    return "(?:" + "|".join(words.split()) + ")"


_L = r"[^\W\d_]"  # a letter
_A = r"[^\W_\u00b2\u00b3\u00b9\u00bc-\u00be\u2150-\u215e]"  # a letter or a digit
_Q = "['\u2019]"  # an apostrophe
_CLITIC = rf"{_Q}(?i:s|m|d|ll|ve|re)(?![A-Za-z])"
_THING = rf"(?:[dDoOlL]{_Q}{_A}{{2,}}|{_A}+)"
_PART = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"

# Group 1 is the token; what a rule matches after it is context: it counts as reach and stays.
_RULES = [
    re.compile(rule)
    for rule in (
        # words that are two tokens
        r"((?i:can(?=not)|gon(?=na)|wan(?=na)|got(?=ta)|gim(?=me)|lem(?=me)))(?i:not|na|ta|me)",
        rf"({_Q}(?i:t))(?i:is|was)",
        rf"((?i:more)){_Q}n",
        rf"({_A}*?{_L})(?i:n['\u2019`]t)",
        r"((?i:n['\u2019`]t))",
        rf"({_CLITIC})",
        rf"({_A}+){_CLITIC}",
        # words, joined by full stops (bench.a), hyphens or strokes
        rf"({_L}{_A}*(?:[.!?]{_L}{_A}*)*)",
        rf"({_THING}(?:[-_\u2010\u2011]{_THING})*)",
        rf"({_PART}(?:/{_PART}){{1,2}})",
        rf"((?:{_L}\.)+-{_L}+|{_L}+\.-?{_L}+-?{_L}+)",  # U.S.-based, St.-Louis
        # apostrophes inside a token
        rf"((?:[dDlLjJ]|[yY]|[oO]l|(?i:dunkin|somethin)){_Q})",
        rf"({_Q}[nN]{_Q}|{_Q}n(?!{_A})|{_Q}(?i:em|till?|cause)(?!{_A})|{_Q}[2-9]0s|{_Q}\d\d(?![\d\"]))",
        rf"((?i:s{_Q}mores|c{_Q}mon|nor{_Q}easter|e{_Q}er|ev{_Q}ry|li{_Q}l))",
        rf"({_L}+[aeiouyAEIOUY]{_Q}[aeiouA-Z]{_L}*)",  # ho'ohu
        # full stops that belong to the token
        rf"({_L}\.(?!\s+{_any(SENTENCE_STARTS)}\b)|(?:{_L}\.){{2,}}|{_L}(?:\.{_L})+)(?!{_L})",
        rf"((?i:{_any(ABBREVIATIONS)}\.)|{_any(CAPITALISED)}\.)",
        r"((?i:ph\.d\.))",
        rf"((?i:{_any(BEFORE_NUMBER)})\.)\s+\d",
        # numbers, fractions, dates
        r"([-+]?\d*(?:[.:,]\d+)+|[-+]?\d+)",
        r"((?:\d+[\s-])?\d+/\d+)",
        r"(\d+-\d+(?:-\d+)*)",
        # addresses, tags, faces
        r"((?i:https?)://[\w/.~%#?=&-]*[\w/])",
        r"((?:\w[\w-]*\.)+(?:com|net|org|edu)\b)",
        r"(\w[\w.+-]*@\w[\w-]*(?:\.\w[\w-]*)*)",
        rf"([@#]{_L}+)",
        r"(</?[A-Za-z][^<>]*>)",
        rf"([:;=]-?(?:[()]|[DP](?!{_A})))",
        # capitals joined by & or +; runs of one sign
        r"([A-Z]+(?:[&+][A-Z]+)+|[A-Z]\+\+|[A-Z]#|[A-Z]{2,3}\$)",
        r"(\.{3,}|-{5,}|-{2,4}|[?!]{2,}|\*+|_+|``|'')",
    )
]
_REWRITTEN = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"\u00a3": "#", "\u20ac": "$", "\u00a2": "cents"},
    **{"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4"},
    **{"\u2153": "1/3", "\u2154": "2/3", "\u2026": "...", "\u2010": "-", "\u2011": "-"},
    **dict.fromkeys("\u2013\u2014\u2015", "--"),
    **dict.fromkeys("\"\u2018\u2019\u201b\u201c\u201d\u00ab\u00bb\u2039\u203a", "''"),
}  # fmt: skip
_WITHIN = str.maketrans({sign: name for sign, name in _REWRITTEN.items() if sign in "()[]{}"})
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}
_ENTITY = re.compile("|".join(_ENTITIES))
_UNREADABLE = re.compile("[\u200b-\u200f\ufeff\ufe0f\U00010000-\U0010ffff]")  # to that lexer
_NORMAL_APOSTROPHE = re.compile(f"{_Q}(?:s|m|d|ll|ve|re|t)|n{_Q}t", re.IGNORECASE)


def tokenize(text: str) -> list[str]:
    """The lower-case tokens of one caption, punctuation included (``PTBTokenizer -lowerCase``)."""
    text = _ENTITY.sub(lambda found: _ENTITIES[found[0]], text)
    text = _UNREADABLE.sub(" ", text.replace("\u00ad", ""))
    tokens: list[str] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        end = reach = at + 1
        for rule in _RULES:
            found = rule.match(text, at)
            if found and found.end() > reach:
                end, reach = found.end(1), found.end()
        tokens.append(_spelt(text[at:end]))
        at = end
    return tokens


def _spelt(token: str) -> str:
    """How the original prints a token: lower case, ASCII quotes and dashes, brackets by name."""
    if token in _REWRITTEN:
        return _REWRITTEN[token]
    if token.strip(".") == "":
        return token if len(token) < 3 else "..."
    if 2 <= len(token) <= 4 and token.strip("-") == "":
        return "--"
    if _NORMAL_APOSTROPHE.fullmatch(token):
        token = token.replace("\u2019", "'")
    return re.sub(r"\s", "\u00a0", token.translate(_WITHIN).lower())


class PTBTokenizer:
    """Captions to space-joined tokens without punctuation, as pycocoevalcap's class gives them."""

    def __call__(self, text: str) -> str:
        """One caption: ``"A man's dog, (wet)."`` -> ``"a man 's dog -lrb- wet -rrb-"``."""
        return " ".join(token for token in tokenize(text) if token not in PUNCTUATION)

    def tokenize(self, captions: Iterable[str]) -> list[str]:
        """Several captions, in order."""
        return [self(caption) for caption in captions]
