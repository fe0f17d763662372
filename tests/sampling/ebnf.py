"""Thirty EBNF grammars, and a recognizer for the subset of the notation that they use, written to be obviously right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

GRAMMARS = (
    'root ::= "yes" | "no"',
    "root ::= [0-9]+",
    'root ::= "-"? [1-9] [0-9]{0,5}',
    'root ::= [a-z]+ "@" [a-z]+ "." ("com" | "org")',
    'root ::= [0-9]{4} "-" [0-9]{2} "-" [0-9]{2}',
    'root ::= octet "." octet "." octet "." octet\noctet ::= [0-9] | [1-9] [0-9] | "1" [0-9] [0-9]',
    'root ::= expr\nexpr ::= term ("+" term)*\nterm ::= factor ("*" factor)*\nfactor ::= [0-9]+ | "(" expr ")"',
    'root ::= "(" root ")" | "x"',
    'root ::= pair*\npair ::= "[" root "]"',
    'root ::= "a" root "b" | "ab"',
    'root ::= "a" root "a" | "b" root "b" | "c"',
    'root ::= list\nlist ::= "[" (item ("," item)*)? "]"\nitem ::= [a-z] | list',
    'root ::= object\nobject ::= "{" (pair ("," pair)*)? "}"\npair ::= "\\"" [a-z]+ "\\":" value\nvalue ::= [0-9]+ | object',
    'root ::= "SELECT " column (", " column)* " FROM " column (" WHERE " column " = " [0-9]+)? ";"\ncolumn ::= [a-z]{1,5}',
    'root ::= "if " cond " then " stmt (" else " stmt)?\ncond ::= [a-z] " < " [0-9]\nstmt ::= [a-z] " = " [0-9] | "{" root "}"',
    'root ::= "<" name ">" (text | root)* "</" name ">"\nname ::= "a" | "b"\ntext ::= [ .x]',
    'root ::= "- " [a-z ]{1,10} ("\\n- " [a-z ]{1,10}){1,3}',
    'root ::= "Thought: " [^\\n]{1,20} "\\nAnswer: " ("A" | "B" | "C")',
    'root ::= hex hex (":" hex hex){5}\nhex ::= [0-9A-F]',
    'root ::= "#" ([0-9a-f]{3} | [0-9a-f]{6})',
    'root ::= move (" " move){0,4}\nmove ::= [KQRBN]? [a-h] [1-8] "+"? | "O-O" "-O"?',
    'root ::= [a-z]+ ("_" [a-z]+)* | [A-Z]+ ("_" [A-Z]+)*',
    'root ::= "true" | "false" | "null" | "\\"" [^"\\\\\\n]{0,8} "\\""',
    'root ::= s\ns ::= "(" s ")" s | ""',
    'root ::= a b\na ::= "x"*\nb ::= "y"+ | "z"',
    'root ::= ("ab" | "a" | "b"){3}',
    'root ::= "é" [à-ü]{1,3} | "日" [本-朮]',
    'root ::= call\ncall ::= [a-z]{1,3} "(" (arg ("," arg)*)? ")"\narg ::= [0-9] | call',
    'root ::= not\nnot ::= "!" not | and\nand ::= atom ("&" atom)*\natom ::= [p-s] | "(" not ")"',
    'root ::= "day " ([1-9] | "1" [0-9] | "2" [0-5]) (" of " ("December" | "Advent"))? # a comment\n',
)

Ends = frozenset[int]
Rule = Callable[[str, int], Ends]


class Recognizer:
    """Where each part of a grammar can end, tried in every way. Left recursion is not supported."""

    def __init__(self, grammar: str) -> None:
        self._rules: dict[str, Rule] = {}
        for line in filter(None, grammar.split("\n")):
            name, _, body = line.partition(" ::= ")
            self._tokens = list(_tokens(body))
            self._rules[name] = self._alternatives()
            assert not self._tokens, f"not read: {self._tokens}"

    def accepts(self, text: str) -> bool:
        return len(text) in self._rules["root"](text, 0)

    def _alternatives(self) -> Rule:
        choices = [self._sequence()]
        while self._tokens[:1] == ["|"]:
            self._tokens.pop(0)
            choices.append(self._sequence())
        return lambda text, at: frozenset().union(*(choice(text, at) for choice in choices))

    def _sequence(self) -> Rule:
        parts = []
        while self._tokens and self._tokens[0] not in ("|", ")"):
            parts.append(self._repeated())

        def ends(text: str, at: int) -> Ends:
            reached = frozenset({at})
            for part in parts:
                reached = frozenset(end for start in reached for end in part(text, start))
            return reached

        return ends

    def _repeated(self) -> Rule:
        part = self._atom()
        mark = self._tokens[0] if self._tokens else ""
        counts = {"*": (0, 999), "+": (1, 999), "?": (0, 1)}.get(mark)
        if mark.startswith("{"):
            low, _, high = mark[1:-1].partition(",")
            counts = (int(low), int(high or low))
        if counts is None:
            return part
        self._tokens.pop(0)
        fewest, most = counts

        def ends(text: str, at: int) -> Ends:
            found, reached = set(), frozenset({at})
            for count in range(most + 1):
                if count >= fewest:
                    if reached <= found:
                        break
                    found |= reached
                reached = frozenset(end for start in reached for end in part(text, start))
            return frozenset(found)

        return ends

    def _atom(self) -> Rule:
        token = self._tokens.pop(0)
        if token == "(":
            inner = self._alternatives()
            assert self._tokens.pop(0) == ")"
            return inner
        if token[0] == '"':
            literal = token[1:-1].replace("\\n", "\n").replace('\\"', '"')
            return lambda text, at: frozenset({at + len(literal)} if text.startswith(literal, at) else ())
        if token[0] == "[":
            return lambda text, at: frozenset({at + 1} if re.fullmatch(token, text[at : at + 1]) else ())
        return lambda text, at: self._rules[token](text, at)


def _tokens(body: str) -> Iterator[str]:
    for match in re.finditer(r'\s+|#.*|"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\{[^}]*\}|[()|*+?]|\w+', body):
        if match[0].strip() and not match[0].startswith("#"):
            yield match[0]
