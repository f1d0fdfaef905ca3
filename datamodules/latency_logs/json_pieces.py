"""Reads JSON documents of any size element by element, with the standard library's own decoder.

A benchmark's result is often one document of gigabytes. `json.load` would hold all of it as Python objects, some ten
times its size; here only the element in hand is decoded. The literals NaN and Infinity, which are no JSON but are
written by several tools, pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

from datamodules.wrong_input import WrongInput

_READ = 1 << 20  # characters at a time
_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"
_AFTER_NUMBER = tuple(",]}" + _SPACE)  # the empty string, the end of what was read, is none of them


class JsonScanner:
    """A cursor over a stream of JSON values.

    Args:
        stream: The text, from its first value on.
        where: The file, for messages.
    """

    def __init__(self, stream: TextIO, where: str):
        self._stream, self._where = stream, where
        self._buffer, self._at, self._ended = "", 0, False

    def peek(self) -> str:
        """The character that the next value or mark begins with; "" at the end of the text."""
        while True:
            while self._at < len(self._buffer):
                if self._buffer[self._at] not in _SPACE:
                    return self._buffer[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._read()

    def value(self) -> Any:
        """Decodes the next value whole."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if self._ended:
                    raise self._broken(error.msg) from None
            else:
                # a number at the end of what was read may go on: "1" may become "1.5e3"
                open_ended = isinstance(value, (int, float)) and self._buffer[end : end + 1] not in _AFTER_NUMBER
                if self._ended or not open_ended:
                    self._at = end
                    return value
            self._read()

    def items(self) -> Iterator[Any]:
        """Decodes the elements of the array that comes next, one at a time."""
        self._expect("[")
        if self._closes("]"):
            return
        while True:
            yield self.value()
            if self._closes("]"):
                return
            self._expect(",")

    def members(self) -> Iterator[str]:
        """Yields the keys of the object that comes next; the caller takes each key's value before it goes on."""
        self._expect("{")
        if self._closes("}"):
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise self._broken("a key must be a string")
            self._expect(":")
            yield key
            if self._closes("}"):
                return
            self._expect(",")

    def skip(self) -> None:
        """Passes over the next value without keeping it."""
        if self.peek() == "[":
            for _ in self.items():
                pass
        else:
            self.value()

    def _closes(self, mark: str) -> bool:
        closes = self.peek() == mark
        self._at += closes
        return closes

    def _expect(self, mark: str) -> None:
        if not self._closes(mark):
            raise self._broken(f"expecting {mark!r}, not {self.peek() or 'the end'!r}")

    def _read(self) -> None:
        """Reads on; at least as much as is waiting, so that a large value is not decoded again for each small step."""
        rest = self._buffer[self._at :]
        try:
            more = self._stream.read(max(_READ, len(rest)))
        except UnicodeDecodeError:
            raise self._broken("the text is not UTF-8") from None
        self._buffer, self._at, self._ended = rest + more, 0, not more

    def _broken(self, why: str) -> WrongInput:
        near = self._buffer[self._at : self._at + 40]
        mend = "was the file cut off? write it anew"
        return WrongInput(f"not valid JSON: {why}", f"{self._where}, near {near!r}", mend)
