"""What OpenAPI says of a row: the parts that interfaces have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from fastagi.api import answers

Schema = Mapping[str, Any]
Responses = dict[int | str, dict[str, Any]]

# What every interface may answer, and an example or two.
ABOUT: Mapping[int, str] = {
    400: "What was sent cannot be done.",
    401: "No token, or a wrong one.",
    403: "The token lacks the required right.",
    404: "There is no such agent.",
    413: "The body is too large.",
    429: "Too many wrong tokens from this address.",
    503: "Asterisk or the database is away: try again.",
}
REFUSALS: Mapping[int, Sequence[str]] = {
    400: ("Two different tokens",),
    401: ("A token is needed", "Wrong token"),
    403: ("This needs the right 'control'",),
    413: ("The body is larger than 65536 bytes",),
    429: ("Too many wrong tokens from this address: try again later",),
    503: (answers.AWAY,),
}


def object_of(*optional: str, **properties: Schema) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


def content(schema: Schema, *examples: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {"schema": schema}
    if len(examples) == 1:
        shown["example"] = examples[0]
    elif examples:
        shown["examples"] = {f"example {n}": {"value": e} for n, e in enumerate(examples, 1)}
    return {answers.JSON: shown}


def parameter(
    name: str, where: str, schema: Schema, about: str, example: Any = None
) -> dict[str, Any]:
    found = {
        "name": name,
        "in": where,
        "required": where == "path",
        "description": about,
        "schema": schema,
    }
    return found if example is None else found | {"example": example}


def body(schema: Schema, example: Any, *, needed: bool = True) -> dict[str, Any]:
    """A JSON object; one that is not needed may be left out in the ways that programs do it."""
    if not needed:
        schema = {"anyOf": [schema, {"type": "null"}, {"type": "array", "maxItems": 0}]}
    return {"required": needed, "content": content(schema, example)}


@dataclass(frozen=True, slots=True)
class Describe:
    """Makes the schemas of one interface's rows.

    ``error``: the schema of its errors, which ``error_body`` makes of status and text. ``about``:
    what statuses mean here, beside ``ABOUT``.
    """

    interface: str
    error: Schema
    error_body: Callable[[int, str], bytes] = answers.error_body
    about: Mapping[int, str] = field(default_factory=dict)

    def __call__(
        self,
        name: str,
        summary: str,
        success: Mapping[int, Mapping[str, Any]],
        refusals: Mapping[int, Sequence[Any]] | None = None,
        **extra: Any,
    ) -> dict[str, Any]:
        """``success``: responses by status, the usual one first. ``refusals``: examples by status,
        texts or whole bodies. ``extra``: fields of the operation."""
        responses: Responses = {status: dict(response) for status, response in success.items()}
        about = {**ABOUT, **self.about}
        for status, examples in sorted({**REFUSALS, **(refusals or {})}.items()):
            shown = [
                orjson.loads(self.error_body(status, one)) if isinstance(one, str) else one
                for one in examples
            ]
            responses[status] = {
                "description": about[status],
                "content": content(self.error, *shown),
            }
        return {
            "name": name,
            "operation_id": f"{self.interface}_{name}",
            "summary": summary,
            "status_code": next(iter(success)),
            "responses": responses,
            "openapi_extra": extra,
        }
