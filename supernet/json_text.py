"""Reads JSON strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from supernet.errors import InvalidError

TOO_DEEP = "has too many brackets inside each other"


def parsed(text: str) -> Any:
    """Returns the value of a JSON text. Raises InvalidError if it is no JSON, or has a number that is not finite, or a
    key that is given twice."""

    def finite(written: str) -> float:
        if not math.isfinite(number := float(written)):
            raise InvalidError("", f"{written} is not a finite number")
        return number

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for key, value in pairs:
            if key in record:
                raise InvalidError("", f"key '{key}' is given twice")
            record[key] = value
        return record

    try:
        return json.loads(text, parse_float=finite, parse_constant=finite, object_pairs_hook=once)
    except RecursionError:
        raise InvalidError("", TOO_DEEP) from None
    except ValueError as error:
        raise InvalidError("", f"not JSON: {error}", "a file in JSON, such as architecture.json") from None


def parsed_design(text: str, form: str, keys: Collection[str]) -> dict[str, Any]:
    """Returns the content of an architecture.json whose format is `form`. Raises InvalidError, which names the wrong
    key, if it is of another format or has a key that is not among `keys`."""
    if not isinstance(text, str | bytes):
        found, remedy = f"got a value of type {type(text).__name__}", "read the file first: Path(...).read_text()"
        raise InvalidError("", found, "the text of an architecture.json", remedy)
    record = parsed(text)
    if not isinstance(record, dict) or record.get("format") != form:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise InvalidError("format", f"got {found!r}", f"'{form}'")
    if unknown := sorted(record.keys() - keys):
        raise InvalidError("", f"unknown key '{unknown[0]}'", ", ".join(sorted(keys)))
    return record


def of_validation(error: ValidationError, place: str) -> InvalidError:
    """Returns the first error of a validation with its parts, found at `place`."""
    first = error.errors()[0]
    where = ".".join(filter(None, [place, *map(str, first["loc"])]))
    cause = first.get("ctx", {}).get("error")  # of our own validators; pydantic's errors have a text alone
    return InvalidError.of(cause if isinstance(cause, ValueError) else ValueError(first["msg"]), where)
