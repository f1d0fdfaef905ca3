"""Nearest templates by inner product: exact, or by FAISS for a large bank."""

from typing import Any

import torch
from torch import Tensor

from datamodules.wrong_input import WrongInput

_USUAL_WIDTHS = (768, 840)
"""Between them divisible by all numbers of parts that product quantisers commonly have."""


def check_index(factory: str | None) -> None:
    """Pass what FAISS could make an index of, for vectors of one width or another.

    Raises:
        WrongInput: FAISS is not installed, or knows no such index.
    """
    refused: list[WrongInput] = []
    for width in _USUAL_WIDTHS if factory is not None else ():
        try:
            _faiss_index(width, str(factory))
        except WrongInput as error:
            refused.append(error)
    if len(refused) == len(_USUAL_WIDTHS):
        raise refused[0]


class TemplateIndex:
    """Vectors of a bank, and the search in them. Grows without being built anew.

    Args:
        width: h.
        factory: None: exact, by one matrix product. Else a FAISS index by its factory string, e.g. ``"Flat"``,
            ``"HNSW32"`` or ``"IVF256,Flat"``; where that finds too few, the row is searched exactly.

    Raises:
        WrongInput: FAISS is not installed, or knows no such index.
    """

    def __init__(self, width: int, factory: str | None = None):
        self.vectors = torch.zeros(0, width)
        self._faiss = None if factory is None else _faiss_index(width, factory)

    def add(self, vectors: Tensor) -> None:
        """Append (n, h) vectors.

        Raises:
            WrongInput: FAISS cannot learn its cells from so few.
        """
        self.vectors = torch.cat([self.vectors.to(vectors), vectors])
        if self._faiss is not None:
            rows = vectors.detach().float().cpu().numpy()
            try:
                if not self._faiss.is_trained:
                    self._faiss.train(rows)
                self._faiss.add(rows)
            except RuntimeError as error:
                raise WrongInput(
                    f"FAISS cannot index {len(rows)} templates: {_reason(error)}", "index", "name another, or none"
                ) from error

    def search(self, queries: Tensor, count: int, excluded: Tensor) -> Tensor:
        """Positions (B, count) int64 of the vectors with the largest inner products, best first.

        Args:
            queries: (B, h).
            count: At most as many as there are vectors that are not excluded.
            excluded: (B,) int64, a position that is not to be found; -1 for none.
        """
        if self._faiss is None:
            return self._exact(queries, count, excluded)
        rows = queries.detach().float().cpu().numpy()
        found = torch.from_numpy(self._faiss.search(rows, count + 1)[1]).to(queries.device)
        usable = (found >= 0) & (found != excluded[:, None])
        best_first = usable.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        positions = found.gather(1, best_first)
        short = usable.sum(1) < count
        if short.any():
            positions[short] = self._exact(queries[short], count, excluded[short])
        return positions

    def _exact(self, queries: Tensor, count: int, excluded: Tensor) -> Tensor:
        products = queries.detach() @ self.vectors.to(queries).T
        rows = (excluded >= 0).nonzero()[:, 0]
        products[rows, excluded[rows]] = -torch.inf
        return products.topk(count, dim=1).indices


def _faiss_index(width: int, factory: str) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise WrongInput(
            "FAISS is not installed", f"index {factory}", "pip install 'smoothtalk[retrieval]', or leave index out"
        ) from error
    try:
        return faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise WrongInput(
            f"FAISS knows no such index: {_reason(error)}", f"index {factory}", "Flat, HNSW32, …"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][:200]
