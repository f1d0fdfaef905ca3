"""Which responses some pairs hold, once each: keys, prompts and lengths in arrays, the tokens left on disk."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np

from datamodules.encoding import EncodedResponse
from datamodules.pairs import EncodedPair
from datamodules.score_cache import ScoreCache
from datamodules.scored_pairs import PAIRS_A_LOOK, response_key

KEY_BYTES, PROMPT_BYTES = 20, 16


class ResponseIndex:
    """The different responses of n pairs as one model reads them; about 80 bytes a pair in memory.

    A response's place is 2·i for the chosen one of pair i and 2·i + 1 for the rejected one; of equal responses to equal
    prompts the first place stands for all.

    Args:
        pairs: Read once here, and again pair by pair when their tokens are asked for.
        name: ``reference`` or ``teacher``, who reads them.
    """

    def __init__(self, pairs: Sequence[EncodedPair], name: str):
        self.pairs, self.name = pairs, name
        self._last: tuple[int, tuple[EncodedResponse, ...]] = (-1, ())
        keys, prompts = bytearray(), bytearray()
        lengths = np.empty((len(pairs), 3), dtype=np.int32)  # of the prompt, and of both responses
        for i, pair in enumerate(pairs):
            both = pair.read_by(name).responses
            lengths[i] = both[0].prompt_length, *(len(each.response) for each in both)
            prompts += blake2b(both[0].prompt.tobytes(), digest_size=PROMPT_BYTES).digest()
            for each in both:
                keys += bytes.fromhex(response_key(each))
        self._keys = keys
        self._prompts = np.frombuffer(prompts, dtype=np.uint64).reshape(-1, PROMPT_BYTES // 8)
        self.prompt_lengths, self.lengths = lengths[:, 0], lengths[:, 1:].reshape(-1)
        first = _first_equal(np.frombuffer(keys, dtype=np.uint32).reshape(-1, KEY_BYTES // 4))
        self.places = np.flatnonzero(first == np.arange(len(first)))

    def __len__(self) -> int:
        """Number of different responses."""
        return len(self.places)

    def key(self, place: int) -> str:
        """The response's key in every score cache."""
        return self._keys[KEY_BYTES * place : KEY_BYTES * (place + 1)].hex()

    def response(self, place: int) -> EncodedResponse:
        """The response, read now."""
        if self._last[0] != place // 2:  # as a rule both responses of a pair are asked for, one after the other
            self._last = (place // 2, self.pairs[place // 2].read_by(self.name).responses)
        return self._last[1][place % 2]

    def place_of(self, key: str) -> str | None:
        """The row that a key belongs to, or None."""
        found = next((place for place in map(int, self.places) if self.key(place) == key), None)
        return None if found is None else self.response(found).place

    def known(self, cache: ScoreCache) -> np.ndarray:
        """(2·n,) bool: which places hold a response that the cache has a score of; looked up some at a time."""
        known = np.zeros(2 * len(self.pairs), dtype=bool)
        for some in _parts(self.places, 2 * PAIRS_A_LOOK):
            keys = [self.key(int(place)) for place in some]
            found = cache.read(keys)
            known[some] = [key in found for key in keys]
        return known

    def groups(self, most: int) -> np.ndarray:
        """(g, most) places of responses to one prompt, −1 where there is none; the group of most tokens first."""
        prompts = _first_equal(self._prompts)[self.places // 2]
        order = np.lexsort((self.places, prompts))
        prompts, places = prompts[order], self.places[order]
        starts = np.flatnonzero(np.diff(prompts, prepend=-1))
        rank = np.arange(len(places)) - np.repeat(starts, np.diff(starts, append=len(places)))
        number = np.cumsum(rank % most == 0) - 1
        table = np.full((number[-1] + 1 if len(number) else 0, most), -1)
        table[number, rank % most] = places
        return table[np.argsort(-self._tokens(table), kind="stable")]

    def _tokens(self, table: np.ndarray) -> np.ndarray:
        """(g,) tokens of a group's responses, each with its prompt."""
        each = self.lengths[table] + self.prompt_lengths[table // 2]
        return np.where(table >= 0, each, 0).sum(1)


def _first_equal(rows: np.ndarray) -> np.ndarray:
    """(n,) for each row of (n, k), the number of the first that equals it."""
    order = np.lexsort(rows.T)
    another = (rows[order[1:]] != rows[order[:-1]]).any(1)
    run = np.concatenate([[0], np.cumsum(another)])[: len(rows)]
    first = np.empty(len(rows), dtype=np.int64)
    first[order] = order[np.flatnonzero(np.concatenate([[True], another])[: len(rows)])][run]
    return first


def _parts(places: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (places[start : start + size] for start in range(0, len(places), size))
