"""A text feature with a tokenizer: a text becomes token ids, padded to the longest of a run."""

# ruff: noqa: D102  (the base class has the docstrings)

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from handler import core_schema as cs
from handler.core_schema import PydanticKnownError, SchemaValidator
from handler.errors import ArtifactError
from handler.feature_types import Array, Text
from handler.manifest import Feature


class TokenizedText(str):
    """A text with its token ids."""

    __slots__ = ("ids", "type_ids", "unknown_share")
    ids: list[int]
    type_ids: list[int]
    unknown_share: float

    @property
    def tokens(self) -> int:
        """Return the number of tokens, special ones included."""
        return len(self.ids)


class TokenizedTextType(Text):
    """A text up to `max_length` characters, or the array of its token ids."""

    is_encoded, has_json_form = True, True
    summaries = ("tokens", "unknown_share")

    def __init__(self, feature: Feature, dtype: str) -> None:
        super().__init__(feature, dtype)
        if feature.tokenizer is None:
            raise TypeError
        self.encoding = feature.tokenizer

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            tokenizer = Tokenizer.from_file(str(Path(self.directory or "", self.encoding.file)))
        except Exception as error:  # a plain Exception, whatever the cause
            name = type(error).__name__
            raise ArtifactError(f"{self.encoding.file}: cannot be loaded ({name})") from None
        self._pads_left = (tokenizer.padding or {}).get("direction") == "left"
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.encoding.max_tokens)
        last_id = tokenizer.get_vocab_size() - 1
        token_id = cs.int_schema(strict=True, ge=0, le=last_id)
        self._ids = SchemaValidator(
            cs.list_schema(token_id, min_length=1, max_length=self.encoding.max_tokens)
        )
        return tokenizer

    def schema(self) -> cs.CoreSchema:
        return cs.plain_function_schema(self.parse)

    def parse(self, value: Any) -> TokenizedText:
        """Return a text, or an array of token ids, with its tokens."""
        if type(value) is list:
            tokenizer = self._tokenizer
            ids = self._ids.validate_python(value)
            return self._with_tokens(tokenizer.decode(ids), ids, [0] * len(ids))
        if not isinstance(value, str):
            raise PydanticKnownError("string_type")
        if self.max_length is not None and len(value) > self.max_length:
            raise PydanticKnownError("string_too_long", {"max_length": self.max_length})
        try:
            encoding = self._tokenizer.encode(value)
        except (TypeError, UnicodeEncodeError):  # a lone surrogate
            raise PydanticKnownError("string_unicode") from None
        return self._with_tokens(value, encoding.ids, encoding.type_ids)

    def _with_tokens(self, value: str, ids: list[int], type_ids: list[int]) -> TokenizedText:
        text = TokenizedText(value)
        text.ids, text.type_ids = ids, type_ids
        text.unknown_share = ids.count(self.encoding.unknown_id) / len(ids) if ids else 0.0
        return text

    def to_json(self, value: Any) -> Any:
        return None if value is None else str(value)

    def encode(self, values: Iterable[Any]) -> dict[str, Array]:
        encoding = self.encoding
        texts = [v if type(v) is TokenizedText else self.parse(v) for v in values]
        length = encoding.length or max(len(text.ids) for text in texts) or 1
        shape = len(texts), length
        ids = np.full(shape, encoding.pad_id, encoding.dtype)
        mask, type_ids = np.zeros(shape, encoding.dtype), np.zeros(shape, encoding.dtype)
        for i, text in enumerate(texts):
            count = len(text.ids)
            columns = slice(length - count, length) if self._pads_left else slice(count)
            ids[i, columns], mask[i, columns], type_ids[i, columns] = text.ids, 1, text.type_ids
        feeds = {
            encoding.input_ids: ids,
            encoding.attention_mask: mask,
            encoding.token_type_ids: type_ids,
        }
        feeds.pop("", None)
        return feeds
